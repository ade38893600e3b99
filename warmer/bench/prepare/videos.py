"""Takes frames out of videos, with PyAV or OpenCV, whichever is installed; neither is needed for anything else.

Frames are counted by going through the file, because the number in a video's header is often wrong.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from warmer.bench.datasets.frames import picked

SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"})
_QUALITY = 95  # of the JPEG files


class Unreadable(Exception):
    """A video that cannot be decoded; says why in the decoder's words."""


def decoder() -> str | None:
    """The module that will decode: ``av``, ``cv2``, or None when neither is installed."""
    needs = {"av": ("av", "PIL"), "cv2": ("cv2",)}  # PyAV hands its pictures to Pillow
    return next((name for name, modules in needs.items() if all(map(importlib.util.find_spec, modules))), None)


def sample(video: Path, target: Path, wanted: int, pick: str, module: str) -> int:
    """Writes frames as ``000.jpg``, ``001.jpg``, ... into the folder `target`, which must be there; their number.

    Raises Unreadable.
    """
    read = _read_with_av if module == "av" else _read_with_opencv
    available, _ = read(video, {})
    numbers = picked(available, wanted, pick)
    if not numbers:
        raise Unreadable("no frames")
    _, written = read(video, {number: target / f"{n:03d}.jpg" for n, number in enumerate(numbers)})
    if written != len(numbers):
        raise Unreadable(f"{written} of {len(numbers)} frames could be decoded")
    return written


def _read_with_av(video: Path, targets: Mapping[int, Path]) -> tuple[int, int]:
    """Goes through the video and writes the frames of these numbers. How many were decoded, and written."""
    import av
    from av.error import FFmpegError

    number = written = 0
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise Unreadable("no picture in it")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                if number in targets:
                    frame.to_image().save(targets[number], quality=_QUALITY)
                    written += 1
                number += 1
                if targets and written == len(targets):
                    break
    except FFmpegError as error:
        if number == 0:  # of a video that is cut off, what comes before the cut is good
            raise Unreadable(str(error)) from error
    return number, written


def _read_with_opencv(video: Path, targets: Mapping[int, Path]) -> tuple[int, int]:
    import cv2

    capture = cv2.VideoCapture(str(video))
    number = written = 0
    try:
        if not capture.isOpened():
            raise Unreadable("OpenCV cannot open it")
        while capture.grab():
            if number in targets:
                found, image = capture.retrieve()
                quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
                written += int(found and cv2.imwrite(str(targets[number]), image, quality))
            number += 1
            if targets and number > max(targets):
                break
    except cv2.error as error:
        raise Unreadable(str(error)) from error
    finally:
        capture.release()
    return number, written
