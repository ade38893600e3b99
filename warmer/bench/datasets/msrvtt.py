"""MSR-VTT as a set of images: frames of its videos. Every frame of a video is right for each of the video's sentences::

    frames/{video_id}/*.jpg       made by `warmer bench prepare msrvtt`, or by any other tool
    MSRVTT_JSFUSION_test.csv      the 1k-A list: key;vid_key;video_id;sentence, or with commas
    MSRVTT_data.json              all videos with their splits and 20 sentences each

Splits: `1k-a` (the list; the default where it is there; the JSON file, if it is there as well, adds the other sentences
of each video, from which simulated users take comments), and `train`, `validate`, `test` of the JSON file. Indexed is
`frames/`; ids are ``video9770%2F000.jpg``; `groups` holds the frames of each video. Sentences of a video without frames
are problems. Frames of videos of another split are no part of the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Dataset, Image, Problem
from warmer.bench.datasets.building import Builder
from warmer.bench.datasets.frames import in_order, picked
from warmer.bench.datasets.images import ImageFolder
from warmer.bench.datasets.problems import bad_dataset
from warmer.bench.datasets.request import Request, members
from warmer.bench.datasets.tables import Wanted, read_rows, require_columns, sniff
from warmer.names import path_from_image_id

kind = "msrvtt"
has_splits = True
looked_for = "MSRVTT_data.json, or MSRVTT_JSFUSION_test.csv with the columns video_id and sentence"

LIST_SPLIT = "1k-a"
LISTS = ("MSRVTT_JSFUSION_test.csv", "*JSFUSION*.csv", "*1k*.csv")
DOCUMENTS = ("MSRVTT_data.json", "*videodatainfo.json")
FRAMES = "frames"
_COLUMNS = Wanted(("video_id",), ("sentence",))


@dataclass(frozen=True)
class Sentence:
    """One sentence of a video. `asks` is false where it only stands beside the queries."""

    video: str
    text: str
    where: str
    asks: bool = True


@dataclass(frozen=True)
class Sentences:
    """The sentences of a split, and the videos that the files know from other splits."""

    split: str
    sentences: list[Sentence]
    elsewhere: frozenset[str] = frozenset()


def fits(request: Request) -> bool:
    """Whether there is such a file."""
    if request.given is None:
        return _list(request) is not None or bool(request.find(DOCUMENTS))
    if not request.is_json(request.given):
        return sniff(request.given).columns(_COLUMNS) is not None
    document = request.document(request.given)
    return isinstance(document, dict) and {"videos", "sentences"} <= set(document)


def read(request: Request) -> Dataset:
    """Reads it. Raises InvalidArgument (``BAD_DATASET``)."""
    builder = Builder(request)
    found = read_sentences(request, builder.problems)
    root = request.images or request.base / FRAMES
    videos: dict[str, list[Image]] = {}
    if root.is_dir():
        folder = ImageFolder(root)
        builder.problems.extend(folder.problems)
        for image in folder.images:
            videos.setdefault(_video(image), []).append(image)
    frames = {
        video: _picked(images, request) for video, images in videos.items() if video and video not in found.elsewhere
    }
    for sentence in found.sentences:
        if sentence.video in frames:
            builder.caption(sentence.video, sentence.text, sentence.where, asks=sentence.asks)
        elif sentence.asks:
            detail = f"{sentence.where}: no frames of {sentence.video!r} in {root.name}/"
            builder.problems.note(problems.CAPTION_WITHOUT_IMAGE, detail)
    groups = {video: tuple(image.image_id for image in images) for video, images in frames.items()}
    loose = videos.get("", [])
    images = [*loose, *(image for group in frames.values() for image in group)]
    return builder.build(f"{kind}:{found.split or request.title}", images, groups)


def read_sentences(request: Request, found: problems.Collected) -> Sentences:
    """The sentences of the split that was asked for. Raises InvalidArgument (``BAD_DATASET``)."""
    listed, documents = _files(request)
    wants_list = (request.split or LIST_SPLIT).casefold() == LIST_SPLIT
    if listed is not None and wants_list:
        asked = list(_listed(listed, found))
        ids = {sentence.video for sentence in asked}
        known, beside = set[str](), list[Sentence]()
        for path in documents:
            splits, sentences = _document(request.document(path), path, found)
            known |= set(splits)
            beside += [
                Sentence(item.video, item.text, item.where, asks=False) for item in sentences if item.video in ids
            ]
        return Sentences(LIST_SPLIT, [*asked, *beside], frozenset(known - ids))
    if not documents or request.split == LIST_SPLIT:
        wanted = LISTS[0] if request.split == LIST_SPLIT else looked_for
        raise bad_dataset(f"no {wanted} in {str(request.base)!r}", "Name it (--captions).")
    return _of_split(request, documents, found)


def _of_split(request: Request, documents: list[Path], found: problems.Collected) -> Sentences:
    splits: dict[str, str] = {}
    sentences: list[Sentence] = []
    for path in documents:
        more, items = _document(request.document(path), path, found)
        splits |= more
        sentences += items
    there = Counter(splits.values())
    wanted = "validate" if request.split == "val" else request.split
    if wanted is not None and wanted not in there:
        names = ", ".join(f"{name} ({number:,} videos)" for name, number in there.items())
        raise bad_dataset(f"no split {wanted!r}; there are: {names}", field="split")
    elsewhere = frozenset(video for video, split in splits.items() if wanted not in (None, split))
    return Sentences(wanted or "", [item for item in sentences if item.video not in elsewhere], elsewhere)


def _document(document: Any, path: Path, found: problems.Collected) -> tuple[dict[str, str], list[Sentence]]:
    videos, items = members(document, path, "videos", "sentences")
    splits: dict[str, str] = {}
    for number, item in enumerate(videos):
        match item:
            case {"video_id": str(video), "split": str(split)}:
                splits[video] = split
            case _:
                found.note(problems.BAD_ROW, f"{path.name}: videos[{number}]: wanted video_id and split")
    sentences: list[Sentence] = []
    for number, item in enumerate(items):
        match item:
            case {"video_id": str(video), "caption": str(text)}:
                sentences.append(Sentence(video, text, f"sentences[{number}]"))
            case _:
                found.note(problems.BAD_ROW, f"{path.name}: sentences[{number}]: wanted video_id and caption")
    return splits, sentences


def _listed(path: Path, found: problems.Collected) -> Iterator[Sentence]:
    form = sniff(path)
    for item in read_rows(path, form, require_columns(path, form, _COLUMNS)):
        if isinstance(item, Problem):
            found.append(item)
        else:
            yield Sentence(item.image, item.caption, f"line {item.line}")


def _files(request: Request) -> tuple[Path | None, list[Path]]:
    if request.given is None:
        return _list(request), request.find(DOCUMENTS)
    return (None, [request.given]) if request.is_json(request.given) else (request.given, request.find(DOCUMENTS))


def _list(request: Request) -> Path | None:
    return next((path for path in request.find(LISTS) if sniff(path).columns(_COLUMNS) is not None), None)


def _video(image: Image) -> str:
    """The folder directly under the root that the frame lies in; nothing for a file that lies in the root."""
    parts = path_from_image_id(image.image_id).parts
    return parts[0] if len(parts) > 1 else ""


def _picked(images: list[Image], request: Request) -> list[Image]:
    ordered = sorted(images, key=lambda image: in_order(image.image_id))
    numbers = picked(len(ordered), request.frames or len(ordered), request.pick)
    return [ordered[number] for number in numbers]
