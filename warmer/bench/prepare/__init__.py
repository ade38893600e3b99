"""Turns an official or Kaggle download into the layout that `warmer.bench.datasets` reads, and says what is missing.

::

    flickr30k: TARGET/flickr30k_images/*.jpg        TARGET/images_captions.csv  (image_name,comment)
    mscoco:    TARGET/val2017/*.jpg                 TARGET/images_captions.csv  (file_name,caption)
               with a split of Karpathy's: images/
    msrvtt:    TARGET/frames/{video_id}/000.jpg ... TARGET/MSRVTT_JSFUSION_test.csv, MSRVTT_data.json

Nothing in the source is changed. Photos are hard links where the disk allows it, so that they take no room a second
time; changing one then changes both (`copy` avoids that). Running it again goes on where it stopped: photos of the same
size, and videos that have the wanted number of frames, are left as they are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from warmer.bench.datasets.frames import PICKS
from warmer.bench.datasets.msrvtt import FRAMES
from warmer.bench.datasets.problems import bad_dataset
from warmer.bench.prepare import msrvtt, photos
from warmer.bench.prepare.report import Report
from warmer.bench.prepare.sources import open_sources

__all__ = ["KINDS", "Report", "prepare"]

KINDS = (*photos.RECIPES, "msrvtt")


def prepare(
    kind: str,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    split: str | None = None,
    frames: int = 4,
    pick: str = "even",
    copy: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Prepares a dataset in `target`.

    Args:
        kind: one of `KINDS`.
        source: the download: a folder, a zip or tar archive, or a folder with the archives in it.
        target: the folder to make; the usual one is ``playground/data/KIND``.
        split: one of Karpathy's (``test``; the source must have `dataset_flickr30k.json` or `dataset_coco.json`), or of
            MSR-VTT's (``1k-a``, ``train``, ``validate``, ``test``).
        frames, pick: of videos: how many frames of each, and which, see :func:`warmer.bench.datasets.frames.picked`.
        copy: copy photos instead of linking them.
        progress: is called with the number of images (or videos) done and to do.

    Raises InvalidArgument (``BAD_DATASET``), ResourceExhausted (``DISK_FULL``), FailedPrecondition (``CANNOT_WRITE``).
    What is not in the source is no error, but in the report.
    """
    _check(kind, frames, pick)
    source, target = Path(source), Path(target)
    recipe = photos.RECIPES.get(kind)
    folder = FRAMES if recipe is None else recipe.split_folder if split else recipe.folder
    report = Report(kind, target, target / folder)
    if source.resolve() == target.resolve() or report.folder.resolve() in (source.resolve(), *source.resolve().parents):
        raise bad_dataset(
            "the source is the target, or in its folder of images", "Name another target.", field="target"
        )
    archives = msrvtt.ARCHIVES if recipe is None else recipe.archives
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warmer-prepare-")))
        entries = [item for place in open_sources(source, archives, target, stack) for item in place.entries()]
        told = progress or (lambda _done, _total: None)
        if recipe is None:
            msrvtt.prepare_videos(msrvtt.Job(entries, split, frames, pick, copy, told), report)
        else:
            photos.prepare_photos(photos.Job(recipe, entries, split, copy, scratch, told), report)
    return report


def _check(kind: str, frames: int, pick: str) -> None:
    if kind not in KINDS:
        raise bad_dataset(f"{kind!r} cannot be prepared", f"Use {', '.join(KINDS)}.", field="kind")
    if frames < 1:
        raise bad_dataset(f"{frames} frames are too few", "Give at least 1.", field="frames")
    if pick not in PICKS:
        raise bad_dataset(f"{pick!r} is no way to pick frames", f"Use {', '.join(PICKS)}.", field="pick")
