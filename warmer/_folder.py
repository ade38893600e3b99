"""Finds the images of a folder, and adds up what became of them.

A file counts as an image by its first bytes or by its suffix: by the bytes, because names lie; by the suffix, so that a
damaged or empty ``.jpg`` is reported instead of silently missing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from warmer.errors import InvalidArgument, WarmerError
from warmer.names import image_id_from_path
from warmer.types import AddResult, FolderReport, NewImage

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib"})
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_HEAD_BYTES = 18
_MAX_DEPTH = 200  # deeper paths make no valid image id, and would exhaust Python's stack


@dataclass(slots=True)
class FolderScan:
    """What a folder holds: images to send, results of what cannot be sent, and the number of other files."""

    images: list[NewImage] = field(default_factory=list)
    problems: list[AddResult] = field(default_factory=list)
    skipped: int = 0

    @property
    def total(self) -> int:
        """Number of results that adding the folder will give."""
        return len(self.images) + len(self.problems)


def scan_folder(directory: str | os.PathLike[str]) -> FolderScan:
    """Walks the folder in sorted order. Hidden entries and folders that contain themselves by a link are left out.

    Raises InvalidArgument (``NOT_A_FOLDER``) when it is no folder or cannot be read.
    """
    root = Path(directory)
    try:
        if not root.is_dir():
            raise NotADirectoryError(0, "not a folder")
        with os.scandir(root):
            pass
    except OSError as error:
        raise InvalidArgument(
            f"{str(root)!r} is not a folder that can be read: {error.strerror}",
            reason="NOT_A_FOLDER",
            field="directory",
            hint="Give the path of a folder with images.",
        ) from error
    scan = FolderScan()
    _walk(root, PurePath(), frozenset(), scan)
    return scan


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with these bytes (18 are enough) is JPEG, PNG, GIF, WebP or BMP."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES)
    )


class FolderTally:
    """Adds up results into a :class:`~warmer.types.FolderReport`."""

    def __init__(self, scan: FolderScan) -> None:
        self._scan = scan
        self._begin = time.monotonic()
        self._outcomes: Counter[str] = Counter()
        self._failures: list[AddResult] = []
        self._revision = 0

    @property
    def done(self) -> int:
        """Number of results so far."""
        return self._outcomes.total()

    def take(self, result: AddResult) -> None:
        """Counts one result."""
        self._outcomes[result.outcome] += 1
        self._revision = max(self._revision, result.revision)
        if result.outcome == "failed":
            self._failures.append(result)

    def report(self) -> FolderReport:
        """The sums."""
        return FolderReport(
            added=self._outcomes["added"],
            replaced=self._outcomes["replaced"],
            unchanged=self._outcomes["unchanged"],
            failures=tuple(self._failures),
            skipped=self._scan.skipped,
            revision=self._revision,
            seconds=time.monotonic() - self._begin,
        )


def _walk(folder: Path, relative: PurePath, ancestors: frozenset[tuple[int, int]], scan: FolderScan) -> None:
    try:
        stat = folder.stat()
        identity = (stat.st_dev, stat.st_ino)
        if identity in ancestors:
            return  # a link back to a folder that we are in
        if len(relative.parts) > _MAX_DEPTH:
            raise OSError(0, "too deep")
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        scan.problems.append(_problem(relative, _unreadable(relative, error)))
        return
    for name in names:
        path = folder / name
        if path.is_dir():
            _walk(path, relative / name, ancestors | {identity}, scan)
        elif path.is_file() and _is_image(path):
            _take(path, relative / name, scan)
        else:
            scan.skipped += 1


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return looks_like_image(file.read(_HEAD_BYTES))
    except OSError:
        return False  # no image by name, and nobody can say by content: one of the skipped files


def _take(path: Path, relative: PurePath, scan: FolderScan) -> None:
    try:
        scan.images.append(NewImage(image_id_from_path(relative), path, source=_printable(relative)))
    except WarmerError as error:
        scan.problems.append(_problem(relative, error))


def _problem(relative: PurePath, error: WarmerError) -> AddResult:
    name = _printable(relative)
    return AddResult(name, "failed", source=name, error=error)


def _unreadable(relative: PurePath, error: OSError) -> InvalidArgument:
    return InvalidArgument(
        f"cannot read the folder {_printable(relative)!r}: {error.strerror}",
        reason="UNREADABLE_FILE",
        hint="Check that you may read it.",
    )


def _printable(relative: PurePath) -> str:
    """The path as valid Unicode; what is not becomes the replacement character."""
    return relative.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
