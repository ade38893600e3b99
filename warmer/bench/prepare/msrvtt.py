"""Prepares MSR-VTT: frames of the videos into `frames/{video_id}/`, and the caption files beside them."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from warmer._folder import SUFFIXES
from warmer.bench.datasets import msrvtt, problems
from warmer.bench.datasets.frames import in_order, picked
from warmer.bench.datasets.request import Request
from warmer.bench.prepare import places, videos
from warmer.bench.prepare.photos import Progress
from warmer.bench.prepare.report import Report
from warmer.bench.prepare.sources import Entry, writing

ARCHIVES = ("msrvtt*.zip", "msr-vtt*.zip", "*videodatainfo*.zip", "archive*.zip", "msrvtt*.tar*")
_VIDEO_ID = re.compile(r"[\w-]{1,100}")


@dataclass(frozen=True)
class Job:
    """What is to be done."""

    entries: Sequence[Entry]
    split: str | None
    frames: int
    pick: str
    copy: bool
    progress: Progress


def prepare_videos(job: Job, report: Report) -> None:
    """Makes the frames of the split's videos; what lacks is said in the report."""
    if not _place_captions(job, report.target):
        report.missing.append(f"the caption file. {places.MSRVTT_CAPTIONS}")
        return
    request = Request(report.target, split=job.split)
    bad = problems.Collected()
    found = msrvtt.read_sentences(request, bad)
    report.notes += problems.lines(bad)
    wanted = list(dict.fromkeys(item.video for item in found.sentences if item.asks))
    report.captions, report.images = sum(item.asks for item in found.sentences), len(wanted)
    strange = [ascii(video) for video in wanted if not _VIDEO_ID.fullmatch(video)]
    report.lack("videos whose ids are no names of a folder", strange, "Is the caption file damaged?")
    lacking = _take_frames(job, report, [video for video in wanted if _VIDEO_ID.fullmatch(video)])
    report.lack("videos", lacking, places.MSRVTT_VIDEOS)
    strangers = {item.name for item in report.folder.iterdir()} - set(wanted) if report.folder.is_dir() else set()
    if strangers:
        report.notes.append(
            f"{len(strangers):,} further entries lie in {report.folder.name}/ and would be indexed as well"
        )


def _place_captions(job: Job, target: Path) -> bool:
    """Puts the caption files into the target. Whether there is one."""
    placed: set[str] = set()
    for entry in job.entries:
        name = entry.name.casefold()
        fits = any(PurePosixPath(name).match(pattern.casefold()) for pattern in (msrvtt.LISTS[0], *msrvtt.DOCUMENTS))
        if fits and name not in placed:
            entry.place(target / entry.name, copy=job.copy)
            placed.add(name)
    return msrvtt.fits(Request(target)) if target.is_dir() else False


def _take_frames(job: Job, report: Report, wanted: list[str]) -> list[str]:
    """Frames of every video, from its folder of frames or from the video itself. The videos that are not there."""
    folders, files = _by_video(job.entries, set(wanted))
    module = videos.decoder()
    lacking: list[str] = []
    unread: list[str] = []
    undecoded = 0
    for number, video in enumerate(wanted):
        target = report.folder / video
        there = len(list(target.glob("*"))) if target.is_dir() else 0
        if video in folders:
            _place_frames(job, report, folders[video], target)
        elif there == job.frames or (there and video not in files):
            report.placed["there"] += there
        elif video not in files:
            lacking.append(video)
        elif module is None:
            undecoded += 1
        else:
            unread += _sample(job, report, files[video], target, module)
        job.progress(number + 1, len(wanted))
    if undecoded:
        report.missing.append(f"a decoder for {undecoded:,} videos: install PyAV (the package av) or OpenCV.")
    report.lack("videos that can be read", unread, "Download them again.")
    return lacking


def _by_video(entries: Sequence[Entry], wanted: set[str]) -> tuple[dict[str, list[Entry]], dict[str, Entry]]:
    """Frames by video, and video files by video."""
    folders: dict[str, list[Entry]] = {}
    files: dict[str, Entry] = {}
    for entry in entries:
        name = PurePosixPath(entry.name)
        if entry.folder in wanted and name.suffix.lower() in SUFFIXES:
            folders.setdefault(entry.folder, []).append(entry)
        elif name.stem in wanted and name.suffix.lower() in videos.SUFFIXES:
            files.setdefault(name.stem, entry)
    return folders, files


def _place_frames(job: Job, report: Report, frames: list[Entry], target: Path) -> None:
    ordered = sorted(frames, key=lambda entry: in_order(entry.name))
    with _making(report, target) as made:
        for number in picked(len(ordered), job.frames, job.pick):
            report.placed[ordered[number].place(made / ordered[number].name, copy=job.copy)] += 1


def _sample(job: Job, report: Report, entry: Entry, target: Path, module: str) -> list[str]:
    """Samples one video. Its name and what is wrong with it, if it cannot be read."""
    try:
        with _making(report, target) as made:
            file = made.with_name(entry.name)
            entry.place(file)
            report.placed["sampled"] += videos.sample(file, made, job.frames, job.pick, module)
    except videos.Unreadable as error:
        return [f"{entry.name}: {error}"]
    return []


@contextmanager
def _making(report: Report, target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` when the block ends well, so that frames are whole or not there."""
    with writing(target), tempfile.TemporaryDirectory(prefix=".part-", dir=report.target) as scratch:
        made = Path(scratch) / "frames"
        made.mkdir()
        yield made
        shutil.rmtree(target, ignore_errors=True)
        made.replace(target)
