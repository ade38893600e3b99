"""What was downloaded, as one list of files: a folder, a zip or tar archive, or a folder with such archives in it.

Names inside archives are never used as paths: files are found by their last part and written where the caller says, and
links, devices and encrypted members are no files here. So nothing can be written outside the target.
"""

from __future__ import annotations

import errno
import fnmatch
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from warmer.bench.datasets.problems import bad_dataset
from warmer.errors import FailedPrecondition, ResourceExhausted, WarmerError

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PART = ".part"  # how a file is named until it is whole


@dataclass(frozen=True)
class Entry:
    """One file of a source. `path` is its path inside, with slashes."""

    path: str
    size: int
    source: Source
    number: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """The name of the folder that it lies in."""
        return PurePosixPath(self.path).parent.name

    def place(self, target: Path, *, copy: bool = False) -> str:
        """Puts the file at `target`: ``linked``, ``copied``, ``unpacked``, or ``there`` when it is there already.

        Raises InvalidArgument (``BAD_DATASET``) when the archive is damaged, ResourceExhausted (``DISK_FULL``) and
        FailedPrecondition (``CANNOT_WRITE``).
        """
        if target.is_file() and target.stat().st_size == self.size:
            return "there"
        with writing(target):
            part = target.with_name(f".{target.name}{_PART}")
            try:
                how = self.source.put(self, part, copy=copy)
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return how


class Source(ABC):
    """Where files come from."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """All files, in the order in which they are cheap to read."""

    @abstractmethod
    def put(self, entry: Entry, target: Path, *, copy: bool) -> str:
        """Writes the file, and says how."""


class Folder(Source):
    """A folder on disk, without hidden files and without `without`."""

    def __init__(self, root: Path, without: Path) -> None:
        self._root = root
        self._without = without.resolve()
        self._paths: list[Path] = []

    def entries(self) -> Iterator[Entry]:
        """All files below, by name."""
        for place, folders, names in os.walk(self._root):
            here = Path(place)
            folders[:] = sorted(
                name for name in folders if _is_content(name) and (here / name).resolve() != self._without
            )
            for name in sorted(filter(_is_content, names)):
                path = here / name
                if path.is_file():
                    self._paths.append(path)
                    inside = path.relative_to(self._root).as_posix()
                    yield Entry(inside, path.stat().st_size, self, len(self._paths) - 1)

    def put(self, entry: Entry, target: Path, *, copy: bool) -> str:
        """Links the file, or copies it where links are not possible."""
        path = self._paths[entry.number].resolve()
        target.unlink(missing_ok=True)
        if not copy:
            try:
                target.hardlink_to(path)
            except OSError as error:
                if error.errno in _FULL:
                    raise
            else:
                return "linked"
        shutil.copyfile(path, target)
        return "copied"


class Zip(Source):
    """A zip archive."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        with reading(path):
            self._archive = stack.enter_context(zipfile.ZipFile(path))
            self._members = [item for item in self._archive.infolist() if not item.is_dir()]
            if any(item.flag_bits & 1 for item in self._archive.infolist()):
                raise NotImplementedError("it is encrypted")

    def entries(self) -> Iterator[Entry]:
        """All files, as listed."""
        for number, item in enumerate(self._members):
            if _is_content(item.filename):
                yield Entry(item.filename, item.file_size, self, number)

    def put(self, entry: Entry, target: Path, *, copy: bool) -> str:  # noqa: ARG002
        """Unpacks the file."""
        with reading(self._path), self._archive.open(self._members[entry.number]) as file:
            _write(file, target)
        return "unpacked"


class Tar(Source):
    """A tar archive, compressed or not. Listing a compressed one reads it once from end to end."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        with reading(path):
            self._archive = stack.enter_context(tarfile.open(path))  # noqa: SIM115, the stack closes it
            self._members = [item for item in self._archive.getmembers() if item.isfile()]

    def entries(self) -> Iterator[Entry]:
        """All files, in the archive's order, so that unpacking never goes back."""
        for number, item in enumerate(self._members):
            if _is_content(item.name):
                yield Entry(item.name, item.size, self, number)

    def put(self, entry: Entry, target: Path, *, copy: bool) -> str:  # noqa: ARG002
        """Unpacks the file."""
        with reading(self._path):
            file = self._archive.extractfile(self._members[entry.number])
            if file is None:
                raise tarfile.ReadError("no file")
            with file:
                _write(file, target)
        return "unpacked"


def open_sources(path: Path, archives: Sequence[str], without: Path, stack: ExitStack) -> list[Source]:
    """The folder and the archives in it whose names fit one of the patterns; or the one archive.

    Raises InvalidArgument (``BAD_DATASET``).
    """
    if path.is_dir():
        inside = sorted(item for item in path.iterdir() if item.is_file() and _fits(item.name, archives))
        return [Folder(path, without), *(_open_archive(item, stack) for item in inside)]
    if not path.is_file():
        raise bad_dataset(
            f"{str(path)!r} does not exist", "Give the folder or archive of the download.", field="source"
        )
    return [_open_archive(path, stack)]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within the block, damage of an archive becomes InvalidArgument (``BAD_DATASET``)."""
    try:
        yield
    except NotImplementedError as error:  # encryption, a compression that Python does not know
        raise bad_dataset(
            f"the archive {path.name} cannot be read: {error}", "Unpack it first.", field="source"
        ) from error
    except _DAMAGE as error:
        raise bad_dataset(
            f"the archive {path.name} is damaged: {error}", "Is the download complete?", field="source"
        ) from error


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Within the block, the folder of the target is there, and faults of the disk become errors that say so."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise _disk_error(target, error) from error


def _disk_error(target: Path, error: OSError) -> WarmerError:
    if error.errno in _FULL:
        return ResourceExhausted(
            "the disk is full; what was written is whole",
            reason="DISK_FULL",
            hint="Free some space and run it again.",
        )
    return FailedPrecondition(f"cannot make {str(target)!r}: {error}", reason="CANNOT_WRITE")


def _open_archive(path: Path, stack: ExitStack) -> Source:
    with reading(path):
        if zipfile.is_zipfile(path):
            return Zip(path, stack)
        if tarfile.is_tarfile(path):
            return Tar(path, stack)
    raise bad_dataset(
        f"{str(path)!r} is no folder and no zip or tar archive", "Is the download complete?", field="source"
    )


def _write(file: IO[bytes], target: Path) -> None:
    with target.open("wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)


def _is_content(path: str) -> bool:
    """Whether it is neither hidden nor what macOS adds to archives."""
    return not any(
        (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in PurePosixPath(path).parts
    )


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name.casefold(), pattern.casefold()) for pattern in patterns)
