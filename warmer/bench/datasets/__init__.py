"""Datasets of images with human captions, read into one form.

`load` reads a folder or a caption file in one of six layouts (`KINDS`); each has a module of its own that describes it.
Whatever cannot be used is in `Dataset.problems`. Image ids are those that `warmer index` makes in `indexed_folder`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from warmer.bench.datasets import coco, flickr30k, folder, karpathy, mscoco, msrvtt, tables
from warmer.bench.datasets.base import Dataset, Image, Problem, Query
from warmer.bench.datasets.images import indexed_folder
from warmer.bench.datasets.problems import bad_dataset, counts, lines
from warmer.bench.datasets.request import Request

__all__ = ["KINDS", "Dataset", "Image", "Problem", "Query", "counts", "indexed_folder", "lines", "load"]


class Layout(Protocol):
    """What a module of a layout offers."""

    @property
    def kind(self) -> str:
        """Its name."""

    @property
    def has_splits(self) -> bool:
        """Whether `split` means something."""

    @property
    def looked_for(self) -> str:
        """What it is recognised by."""

    def fits(self, request: Request) -> bool:
        """Whether the files look like this layout."""

    def read(self, request: Request) -> Dataset:
        """Reads them."""


# The plain folder is last: it is only tried when nothing else fits.
_LAYOUTS: tuple[Layout, ...] = (flickr30k.LAYOUT, mscoco.LAYOUT, karpathy, coco, msrvtt, folder.LAYOUT)

KINDS = tuple(layout.kind for layout in _LAYOUTS)


def load(
    path: str | os.PathLike[str],
    *,
    kind: str = "auto",
    split: str | None = None,
    captions: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    frames: int | None = None,
    pick: str = "even",
    seed: int = 0,
    sample: float | None = None,
    image_column: str = "",
    caption_column: str = "",
) -> Dataset:
    """Reads a dataset.

    Args:
        path: the folder, or the caption file.
        kind: one of `KINDS`, or `auto`, which looks at names and columns.
        split: of layouts that have splits; all of them where it is left out.
        captions: the caption file, if it is not in the folder.
        images: the folder of the images, if it is not in the folder. It is the one that `warmer index` indexes.
        frames: of videos: how many frames of each to use; all where it is left out.
        pick: of videos: which frames, see :func:`warmer.bench.datasets.frames.picked`.
        seed: of the sample.
        sample: a share of the queries (below 1) or a number of them; images and `others` stay.
        image_column, caption_column: names of a table's columns, if they are unusual.

    Raises InvalidArgument (``BAD_DATASET``), with `field` naming the argument.
    """
    request = Request(
        path=Path(path),
        captions=None if captions is None else Path(captions),
        images=None if images is None else Path(images),
        split=split or None,
        frames=frames,
        pick=pick,
        seed=seed,
        sample=sample,
        image_column=image_column.strip(),
        caption_column=caption_column.strip(),
    )
    layout = _detected(request) if kind == "auto" else _named(kind)
    if request.split is not None and not layout.has_splits:
        raise bad_dataset(
            f"the layout {layout.kind} has no splits",
            "Leave the split out, or give Karpathy's file (--captions dataset_flickr30k.json).",
            field="split",
        )
    return layout.read(request)


def _named(kind: str) -> Layout:
    for layout in _LAYOUTS:
        if layout.kind == kind:
            return layout
    raise bad_dataset(f"{kind!r} is no kind of dataset", f"Use auto, {', '.join(KINDS)}.", field="kind")


def _detected(request: Request) -> Layout:
    *special, plain = _LAYOUTS
    named = request.image_column or request.caption_column  # then any table would fit any layout
    fitting = [] if named else [layout for layout in special if layout.fits(request)]
    if request.split is not None:
        fitting = [layout for layout in fitting if layout.has_splits] or fitting
    if len(fitting) > 1:
        raise bad_dataset(
            f"{str(request.path)!r} fits several layouts: {', '.join(layout.kind for layout in fitting)}",
            "Say which one is meant (--kind).",
            field="kind",
        )
    if fitting:
        return fitting[0]
    if plain.fits(request):
        return plain
    raise _unknown(request, special)


def _unknown(request: Request, special: Sequence[Layout]) -> Exception:
    found = [request.given] if request.given is not None else request.find(("*.csv", "*.tsv", "*captions*.txt"))
    headers = [
        f"{table.name} has the columns {', '.join(tables.sniff(table).header)}"
        for table in found[:3]
        if not request.is_json(table)
    ]
    looked = "; ".join(f"{layout.kind}: {layout.looked_for}" for layout in [*special, folder.LAYOUT])
    return bad_dataset(
        f"{str(request.path)!r} is no dataset of a known layout{''.join(f'; {header}' for header in headers)}. "
        f"Looked for {looked}",
        "Name the layout (--kind), the caption file (--captions) or the columns (--image-column, --caption-column).",
    )
