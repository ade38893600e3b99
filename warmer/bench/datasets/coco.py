"""MSCOCO's own caption files: `captions_val2017.json` with the folder `val2017/` beside it, above it or in `images/`.

Indexed is that folder; ids are file names. `split` says which of several files is meant: ``val2017``, or ``val`` where
one file alone begins so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Dataset, Image
from warmer.bench.datasets.building import Builder
from warmer.bench.datasets.captioned import image_root
from warmer.bench.datasets.images import ImageFolder
from warmer.bench.datasets.problems import bad_dataset
from warmer.bench.datasets.request import Request, members

kind = "coco"
has_splits = True
looked_for = "captions_val2017.json or another captions_*.json, here or in annotations/"

_FILES = ("captions_*.json",)
_PREFIX = "captions_"


def fits(request: Request) -> bool:
    """Whether there is such a file."""
    if request.given is None:
        return bool(_files(request))
    if not request.is_json(request.given):
        return False
    document = request.document(request.given)
    return isinstance(document, dict) and {"images", "annotations"} <= set(document)


def read(request: Request) -> Dataset:
    """Reads it. Raises InvalidArgument (``BAD_DATASET``)."""
    path = request.given or _chosen(request)
    builder = Builder(request)
    images, annotations = members(request.document(path), path, "images", "annotations")
    names = read_names(images, builder.problems)
    part = path.stem.removeprefix(_PREFIX)
    folders = (part, f"images/{part}", f"coco/{part}", "images", ".")
    root = image_root(request, path, folders, ((name,) for name in names.values()), kind)
    folder = ImageFolder(root)
    builder.problems.extend(folder.problems)
    there = {number: folder.find(name) for number, name in names.items()}
    for number, annotation in enumerate(annotations):
        _take(annotation, f"annotations[{number}]", names, there, builder)
    return builder.build(f"{kind}:{part}", folder.images)


def read_names(images: list[Any], found: problems.Collected) -> dict[int, str]:
    """File names by the numbers of the images."""
    names: dict[int, str] = {}
    for place, item in enumerate(images):
        match item:
            case {"id": int(number), "file_name": str(name)} if number not in names:
                names[number] = name
            case {"id": int(number), "file_name": str()}:
                found.note(problems.DUPLICATE_ROW, f"images[{place}]: a second time the image {number}")
            case _:
                found.note(problems.BAD_ROW, f"images[{place}]: wanted id and file_name")
    return names


def _take(annotation: Any, where: str, names: dict[int, str], there: dict[int, Image | None], builder: Builder) -> None:
    match annotation:
        case {"image_id": int(number), "caption": str(caption)}:
            image = there.get(number)
            if image is None:
                missing = repr(names[number]) if number in names else f"with the id {number}"
                builder.problems.note(problems.CAPTION_WITHOUT_IMAGE, f"{where}: no image {missing}")
            else:
                builder.caption(image.image_id, caption, where)
        case _:
            builder.problems.note(problems.BAD_ROW, f"{where}: wanted image_id and caption")


def _files(request: Request) -> list[Path]:
    return request.find(_FILES, (".", "annotations"))


def _chosen(request: Request) -> Path:
    files = _files(request)
    if not files:
        raise bad_dataset(f"no {looked_for} in {str(request.base)!r}", "Name it (--captions).")
    parts = {file.stem.removeprefix(_PREFIX): file for file in files}
    split = request.split or ""
    if split in parts:
        return parts[split]
    fitting = [file for part, file in parts.items() if part.startswith(split)]
    if len(fitting) != 1:
        what = f"no single file of the split {split!r}" if split else "several caption files"
        raise bad_dataset(f"{what}; there are: {', '.join(parts)}", "Name one of them (--split).", field="split")
    return fitting[0]
