"""What lies in the folder of a run: its hunts, and a note of where the pictures are, for the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from warmer.bench.datasets import indexed_folder
from warmer.bench.datasets.base import Dataset
from warmer.errors import InvalidArgument
from warmer.names import path_from_image_id

HUNTS = "hunts.jsonl"
_NOTE = "dataset.json"


def hunts_of(run: Path) -> Path:
    """The file of a run that is named by its folder, or by itself. Raises InvalidArgument (``NOT_A_RUN``)."""
    file = run / HUNTS if run.is_dir() else run
    if not file.is_file():
        raise InvalidArgument(
            f"{str(run)!r} is no run",
            reason="NOT_A_RUN",
            field="run",
            hint="Give the folder that `warmer bench run` wrote.",
        )
    return file


def note_images(run: Path, dataset: Dataset) -> None:
    """Notes where the images are. It decides nothing, so it is not in the header of the run."""
    folder = indexed_folder(dataset)
    facts = {"images": str(folder.absolute()) if folder else ""}
    (run / _NOTE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def pictures(runs: Sequence[Path], folder: Path | None = None) -> Callable[[str], Path | None] | None:
    """Finds the file of an image id, in the folder or in those that the runs note; None where none is known."""
    folders = [folder] if folder else [noted for run in runs if (noted := _noted(run)) is not None]

    def find(id: str) -> Path | None:
        files = (folder / path_from_image_id(id) for folder in folders)
        return next((file for file in files if file.is_file()), None)

    return find if folders else None


def _noted(run: Path) -> Path | None:
    try:
        folder = json.loads((run / _NOTE).read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a run without the note is as good; its report has no pictures
    return Path(folder) if folder else None
