"""Brings the files of a folder of this machine: copied, or linked where the folder stays where it is."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from services.fetching.faults import no_space, wrong_sha256
from services.fetching.lock import LockedFile, sha256_of
from services.fetching.sources import Item

_CHUNK = 1 << 20


def copy(item: Item, folder: Path, on_bytes: Callable[[int], object]) -> LockedFile:
    """Copies a file into the folder. Raises DataLoss (WRONG_SHA256), ResourceExhausted (NO_SPACE)."""
    target, part = folder / item.path, folder / f"{item.path}.part"
    try:
        found = _copy(Path(item.place), part, on_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_space(folder, None) from error
        raise
    if item.sha256 and found != item.sha256:
        part.unlink()
        raise wrong_sha256(item, found)
    part.replace(target)
    return LockedFile(item.path, target.stat().st_size, found)


def link(item: Item, folder: Path, on_bytes: Callable[[int], object]) -> LockedFile:
    """Links to a file. Raises DataLoss (WRONG_SHA256)."""
    found = sha256_of(Path(item.place), on_bytes)
    if item.sha256 and found != item.sha256:
        raise wrong_sha256(item, found)
    target = folder / item.path
    target.unlink(missing_ok=True)
    target.symlink_to(Path(item.place).resolve())
    return LockedFile(item.path, target.stat().st_size, found)


def _copy(source: Path, target: Path, on_bytes: Callable[[int], object]) -> str:
    """Copies the content, waits until it is on the disk, and returns its sum: what was read is what is summed."""
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_CHUNK):
            writing.write(chunk)
            digest.update(chunk)
            on_bytes(len(chunk))
        writing.flush()
        os.fsync(writing.fileno())
    return digest.hexdigest()
