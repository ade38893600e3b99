"""Prepares Flickr30k and MSCOCO: photos into one folder, captions into one CSV file, in the reference's layout."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from warmer._folder import SUFFIXES
from warmer.bench.datasets import coco, flickr30k, karpathy, mscoco, problems
from warmer.bench.datasets.captioned import TableLayout
from warmer.bench.datasets.problems import bad_dataset
from warmer.bench.datasets.request import members, read_json
from warmer.bench.datasets.tables import Format, Row, read_rows, sniff
from warmer.bench.prepare import places
from warmer.bench.prepare.report import Report
from warmer.bench.prepare.sources import Entry, writing

TABLE = "images_captions.csv"
_MAX_IMAGE_BYTES = 1 << 28
_RUN_TOGETHER = re.compile(r"\s*(\d+)\s+(\S.*)", re.DOTALL)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """One dataset: what its files are called, and what is made of them."""

    kind: str
    layout: TableLayout
    folder: str
    split_folder: str
    columns: tuple[str, str]
    archives: tuple[str, ...]
    documents: tuple[str, ...]  # official caption files in JSON
    images_at: str
    split_images_at: str
    captions_at: str


RECIPES = {
    "flickr30k": Recipe(
        "flickr30k",
        flickr30k.LAYOUT,
        "flickr30k_images",
        "flickr30k_images",
        ("image_name", "comment"),
        ("flickr*.zip", "flickr*.tar*", "flickr*.tgz", "archive*.zip", "caption_datasets.zip", "karpathy*.zip"),
        (),
        places.FLICKR30K_IMAGES,
        places.FLICKR30K_IMAGES,
        places.FLICKR30K_CAPTIONS,
    ),
    "mscoco": Recipe(
        "mscoco",
        mscoco.LAYOUT,
        "val2017",
        "images",
        ("file_name", "caption"),
        (
            *("val2017*.zip", "val2014*.zip", "train2014*.zip", "annotations*.zip", "coco*.zip", "archive*.zip"),
            *("caption_datasets.zip", "karpathy*.zip"),
        ),
        ("captions_val2017.json",),
        places.COCO_IMAGES,
        places.COCO_2014_IMAGES,
        places.COCO_CAPTIONS,
    ),
}


@dataclass
class Captions:
    """Captions as read: for each the names under which its image may lie, the usual one first."""

    rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    recipe: Recipe
    entries: Sequence[Entry]
    split: str | None
    copy: bool
    scratch: Path  # for caption files out of archives
    progress: Progress

    @property
    def folder(self) -> str:
        """Name of the folder of the images."""
        return self.recipe.split_folder if self.split else self.recipe.folder


def prepare_photos(job: Job, report: Report) -> None:
    """Places the photos that have captions, and writes the captions; what lacks is said in the report."""
    captions = _karpathy(job) if job.split else _document(job) or _table(job)
    if captions is None:
        report.missing.append(
            f"the split file dataset_*.json. {places.KARPATHY}"
            if job.split
            else f"the caption file. {job.recipe.captions_at}"
        )
        return
    names = _place(job, captions, report)
    lacking = [usual for usual, found in names.items() if found is None]
    report.lack("photos", lacking, job.recipe.split_images_at if job.split else job.recipe.images_at)
    report.notes += captions.notes
    report.captions, report.images = len(captions.rows), len(names)
    _write_table(report.target / TABLE, job.recipe.columns, captions, names)


def _place(job: Job, captions: Captions, report: Report) -> dict[str, str | None]:
    """Places the photos. The name of each by its usual name, None for those that are missing."""
    usual = {_last(name): _last(names[0]) for names, _ in captions.rows for name in reversed(names)}
    names: dict[str, str | None] = dict.fromkeys(usual.values())
    sizes: dict[str, int] = {}
    others = differing = too_large = 0
    for entry in job.entries:
        if PurePosixPath(entry.name).suffix.lower() not in SUFFIXES:
            continue
        key = usual.get(entry.name)
        if key is None:
            others += 1
        elif entry.size > _MAX_IMAGE_BYTES:
            too_large += 1
        elif names[key] is not None:
            differing += sizes[key] != entry.size
        else:
            report.placed[entry.place(report.folder / entry.name, copy=job.copy)] += 1
            names[key], sizes[key] = entry.name, entry.size
            job.progress(report.placed.total(), len(names))
    if others:
        report.notes.append(f"{others:,} other images were left out, because no caption names them")
    if too_large:
        report.notes.append(f"{too_large:,} photos of over {_MAX_IMAGE_BYTES >> 20} MiB were left out")
    if differing:
        report.notes.append(f"{differing:,} photos are there twice with different content; the first was taken")
    _look_for_strangers(report, {name for name in names.values() if name})
    return names


def _look_for_strangers(report: Report, placed: set[str]) -> None:
    if report.folder.is_dir():
        strangers = sum(item.name not in placed and not item.name.startswith(".") for item in report.folder.iterdir())
        if strangers:
            report.notes.append(
                f"{strangers:,} further files lie in {report.folder.name}/ and would be indexed as well"
            )


def _table(job: Job) -> Captions | None:
    """Captions of the first table that fits."""
    wanted = job.recipe.layout.wanted
    for path in _files(job, job.recipe.layout.tables):
        form = sniff(path)
        columns = form.columns(wanted)
        if columns is not None:
            captions = Captions()
            bad = problems.Collected()
            for item in read_rows(path, form, columns, _separate):
                if isinstance(item, Row):
                    captions.rows.append(((item.image,), item.caption))
                    if item.repaired:
                        captions.notes.append(f"{path.name}, line {item.line}: the missing separator was put in")
                else:
                    bad.append(item)
            captions.notes += [f"{path.name}: {line}" for line in problems.lines(bad)]
            return captions
    return None


def _separate(fields: list[str], form: Format) -> list[str] | None:
    """Mends the row of Kaggle's Flickr30k that runs number and comment together: ``2199200615.jpg| 4   A dog ...``."""
    if len(fields) == 2 and len(form.header) == 3 and (match := _RUN_TOGETHER.fullmatch(fields[1])):
        return [fields[0], match[1], match[2]]
    return None


def _document(job: Job) -> Captions | None:
    """Captions of the official JSON file."""
    for path in _files(job, job.recipe.documents):
        found = problems.Collected()
        images, annotations = members(read_json(path), path, "images", "annotations")
        names = coco.read_names(images, found)
        captions = Captions()
        for number, item in enumerate(annotations):
            match item:
                case {"image_id": int(image), "caption": str(text)} if image in names:
                    captions.rows.append(((names[image],), text))
                case _:
                    found.note(problems.BAD_ROW, f"annotations[{number}]: no caption of a known image")
        captions.notes += [f"{path.name}: {line}" for line in problems.lines(found)]
        return captions
    return None


def _karpathy(job: Job) -> Captions | None:
    """Captions of a split of Karpathy's."""
    kinds = {"flickr30k": ("dataset_flickr30k.json", "dataset_flickr8k.json"), "mscoco": ("dataset_coco.json",)}
    for path in _files(job, kinds[job.recipe.kind]):
        found = problems.Collected()
        entries = karpathy.read_entries(read_json(path), path, found)
        splits = karpathy.chosen_splits(entries, job.split)
        captions = Captions(
            [(entry.names, text) for entry in entries if entry.split in splits for text in entry.captions]
        )
        captions.notes += [f"{path.name}: {line}" for line in problems.lines(found)]
        return captions
    return None


def _files(job: Job, patterns: Sequence[str]) -> Iterator[Path]:
    """Caption files by pattern, the usual first, as files on disk."""
    for pattern in patterns:
        for number, entry in enumerate(job.entries):
            if PurePosixPath(entry.name.casefold()).match(pattern.casefold()):
                place = job.scratch / str(number) / entry.name
                entry.place(place)
                yield place


def _last(name: str) -> str:
    """The last part of a path, which is all that a flat folder keeps."""
    last = PurePosixPath(name.replace("\\", "/")).name
    if last in ("", "..") or "\0" in last:
        raise bad_dataset(f"{name!r} in the caption file is no name of an image", field="source")
    return last


def _write_table(path: Path, columns: tuple[str, str], captions: Captions, names: dict[str, str | None]) -> None:
    with writing(path):
        part = path.with_name(f".{path.name}.part")
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for alternatives, text in captions.rows:
                usual = _last(alternatives[0])
                writer.writerow((names[usual] or usual, " ".join(text.split())))
        part.replace(path)
