"""The lock file of a fetched model: what came from where, so that `verify` can tell later whether it is still that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.fetched import LOCK_NAME
from warmer.errors import DataLoss

_FORMAT = 1
_CHUNK = 1 << 20


@dataclass(frozen=True)
class LockedFile:
    """A file as it came. `size` in bytes, `sha256` in lower-case hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Lock:
    """What a fetched model is.

    Attributes:
        source: a hub id, a URL without its secrets, or a path.
        revision: the hub's commit; empty for other sources.
        accepted: when and how its licence was accepted; empty if nobody was asked.
        fetched: when it was complete, in UTC and ISO 8601.
    """

    name: str
    kind: str
    source: str
    revision: str
    licence: str
    licence_url: str
    accepted: str
    fetched: str
    files: tuple[LockedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read_lock(folder: Path) -> Lock | None:
    """The lock of the model in this folder; None if it has none. Raises DataLoss (LOCK_DAMAGED)."""
    try:
        content: dict[str, Any] = json.loads((folder / LOCK_NAME).read_text(encoding="utf-8"))
        files = tuple(LockedFile(str(f["path"]), int(f["size"]), str(f["sha256"])) for f in content.pop("files"))
        if content.pop("format") != _FORMAT:
            raise ValueError("it has another format")
        return Lock(**{key: str(value) for key, value in content.items()}, files=files)
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise DataLoss(
            f"{folder / LOCK_NAME} cannot be read: {error}",
            reason="LOCK_DAMAGED",
            hint="remove the model with `warmer models remove`, and fetch it again",
        ) from error


def write_lock(folder: Path, lock: Lock) -> None:
    """Writes the lock and waits until it is on the disk."""
    with (folder / LOCK_NAME).open("w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, **dataclasses.asdict(lock)}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def problems(folder: Path, lock: Lock, *, contents: bool, on_bytes: Callable[[int], object]) -> list[str]:
    """What differs from the lock, a sentence each. With `contents` every byte is read, else only sizes are compared."""
    return [text for file in lock.files if (text := _problem(folder, file, contents, on_bytes))]


def _problem(folder: Path, file: LockedFile, contents: bool, on_bytes: Callable[[int], object]) -> str:
    path = folder / file.path
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"{file.path} has {size} bytes, not {file.size}"
        found = sha256_of(path, on_bytes) if contents else file.sha256
    except OSError as error:
        return f"{file.path} cannot be read: {error.strerror}"
    return "" if found == file.sha256 else f"{file.path} has sha256 {found}, not {file.sha256}"


def sha256_of(path: Path, on_bytes: Callable[[int], object]) -> str:
    """SHA-256 of a file in lower-case hex. `on_bytes` hears of each piece that was read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
