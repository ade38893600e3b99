"""Karpathy's splits: `dataset_flickr30k.json`, `dataset_flickr8k.json`, `dataset_coco.json`.

Each image has a split (train, val, test; COCO also restval) and its sentences, of which `raw` is used. Several splits
are joined with a comma: ``train,restval``. Images of other splits are no part of the dataset, so a folder that holds
them too must not be indexed whole: `warmer bench prepare --split` makes one with the split's images alone.

Indexed is the folder that holds the files by `filename`, or for COCO the one that holds `filepath/filename`, or the
names of the 2017 release (``000000391895.jpg``), whichever is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Dataset
from warmer.bench.datasets.building import Builder, images_of_split
from warmer.bench.datasets.captioned import image_root
from warmer.bench.datasets.images import ImageFolder
from warmer.bench.datasets.problems import bad_dataset
from warmer.bench.datasets.request import Request, members

kind = "karpathy"
has_splits = True
looked_for = "dataset_flickr30k.json, dataset_coco.json or another dataset_*.json"

_FILES = ("dataset_flickr30k.json", "dataset_coco.json", "dataset_*.json", "dataset.json")
_FOLDERS = (
    "flickr30k_images/flickr30k_images",
    "flickr30k_images",
    "flickr30k-images",
    "images",
    "Images",
    "coco",
    ".",
    "val2014",
    "val2017",
    "train2017",
)


@dataclass(frozen=True)
class Entry:
    """One image of the file: the names under which it may lie, its split, its captions."""

    names: tuple[str, ...]
    split: str
    captions: tuple[str, ...]
    where: str


def fits(request: Request) -> bool:
    """Whether there is such a file."""
    if request.given is None:
        return bool(request.find(_FILES))
    if not request.is_json(request.given):
        return False
    document = request.document(request.given)
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and any(isinstance(item, dict) and "sentences" in item for item in images[:100])


def read(request: Request) -> Dataset:
    """Reads it. Raises InvalidArgument (``BAD_DATASET``)."""
    path = request.given or _only(request.find(_FILES), request)
    builder = Builder(request)
    entries = read_entries(request.document(path), path, builder.problems)
    splits = chosen_splits(entries, request.split)
    chosen = [entry for entry in entries if entry.split in splits]
    root = image_root(request, path, _FOLDERS, (entry.names for entry in chosen), kind)
    folder = ImageFolder(root)
    builder.problems.extend(folder.problems)
    elsewhere = {image.image_id for entry in entries if entry.split not in splits for image in _found(folder, entry)}
    for entry in chosen:
        image = folder.find(*entry.names)
        for caption in entry.captions:
            if image is None:
                builder.problems.note(problems.CAPTION_WITHOUT_IMAGE, f"{entry.where}: no image {entry.names[0]!r}")
            else:
                elsewhere.discard(image.image_id)
                builder.caption(image.image_id, caption, entry.where)
    name = f"{kind}:{path.stem}" + (f"/{request.split}" if request.split else "")
    return builder.build(name, images_of_split(folder, elsewhere))


def read_entries(document: Any, path: Path, found: problems.Collected) -> list[Entry]:
    """All images of the file. Raises InvalidArgument (``BAD_DATASET``)."""
    entries: list[Entry] = []
    for number, item in enumerate(members(document, path, "images")[0]):
        where = f"images[{number}]"
        match item:
            case {"filename": str(filename), "split": str(split), "sentences": [*sentences]}:
                captions = tuple(_captions(sentences, where, found))
                entries.append(Entry(tuple(_names(item, filename)), split, captions, where))
            case _:
                found.note(problems.BAD_ROW, f"{where}: wanted filename, split and sentences")
    return entries


def chosen_splits(entries: list[Entry], split: str | None) -> set[str]:
    """The splits asked for; all of them for None. Raises InvalidArgument (``BAD_DATASET``) for one that is unknown."""
    found = Counter(entry.split for entry in entries)
    if split is None:
        return set(found)
    wanted = {name.strip() for name in split.split(",")}
    if not wanted <= set(found):
        there = ", ".join(f"{name} ({number:,} images)" for name, number in found.items())
        raise bad_dataset(f"no split {split!r}; there are: {there}", field="split")
    return wanted


def _names(item: Mapping[str, Any], filename: str) -> Iterator[str]:
    match item:
        case {"filepath": str(filepath)} if filepath:
            yield f"{filepath}/{filename}"
    yield filename
    match item:
        case {"cocoid": int(number)}:
            release = f"{number:012d}.jpg"
            yield from (release, f"val2017/{release}", f"train2017/{release}")


def _captions(sentences: list[Any], where: str, found: problems.Collected) -> Iterator[str]:
    for number, sentence in enumerate(sentences):
        match sentence:
            case {"raw": str(text)}:
                yield text
            case {"tokens": [*tokens]} if all(isinstance(token, str) for token in tokens):
                yield " ".join(tokens)
            case _:
                found.note(problems.BAD_ROW, f"{where}.sentences[{number}]: no text")


def _found(folder: ImageFolder, entry: Entry) -> Iterator[Any]:
    image = folder.find(*entry.names)
    if image is not None:
        yield image


def _only(files: list[Path], request: Request) -> Path:
    if not files:
        raise bad_dataset(f"no {looked_for} in {str(request.base)!r}", "Name it (--captions).")
    if len(files) > 1:
        raise bad_dataset(
            f"several caption files: {', '.join(file.name for file in files)}",
            "Name one (--captions).",
            field="captions",
        )
    return files[0]
