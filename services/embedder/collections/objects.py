"""Image files by content: identical bytes are stored once, and a file is either whole or not there.

A file is written and synced under a temporary name in `incoming/`, by any thread; only the collection's writer gives it
its final name, just before the transaction that needs it, and only the writer removes files, just after the
transaction that no longer does. So no image of the record can lose its content to a race.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from services.embedder.files import sync_folder
from warmer.errors import DataLoss


class ObjectStore:
    """A content-addressed folder: `objects/ab/cdef...` has the bytes of SHA-256 abcdef... Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the collection's. What a crash left in `incoming/` is removed."""
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        self._objects.mkdir(exist_ok=True)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(exist_ok=True)

    def path(self, sha256: bytes) -> Path:
        """Where a content is, or would be."""
        name = sha256.hex()
        return self._objects / name[:2] / name[2:]

    def has(self, sha256: bytes) -> bool:
        """Whether the content is there."""
        return self.path(sha256).exists()

    def stage(self, content: bytes) -> Path:
        """Writes and syncs the content under a temporary name, for `adopt`. Any thread."""
        path = self._incoming / secrets.token_hex(16)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return path

    def discard(self, staged: Path) -> None:
        """Removes a staged file that nobody adopted."""
        staged.unlink(missing_ok=True)

    def adopt(self, contents: Iterable[tuple[bytes, Path | None, bytes]]) -> None:
        """Gives staged files their final names, durably. Each is (sha256, staged file or None, content). Writer."""
        folders: set[Path] = set()
        for sha256, staged, content in contents:
            path = self.path(sha256)
            if path.exists():
                if staged is not None:
                    self.discard(staged)
                continue
            if not path.parent.exists():
                path.parent.mkdir()
                folders.add(self._objects)
            source = staged if staged is not None and staged.exists() else self.stage(content)
            source.replace(path)
            folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    def read(self, sha256: bytes) -> bytes:
        """The content. Raises DataLoss (CONTENT_DAMAGED) when it is missing or not what it was."""
        try:
            content = self.path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise _damaged(sha256, "is missing") from error
        if hashlib.sha256(content).digest() != sha256:
            raise _damaged(sha256, "has changed on disk")
        return content

    def remove(self, sha256: bytes) -> None:
        """Removes the content. Writer only."""
        self.path(sha256).unlink(missing_ok=True)

    def sweep(self, known: Callable[[bytes], bool]) -> int:
        """Removes files that a crash left behind and returns how many. Writer only, before it writes."""
        removed = 0
        for folder in self._objects.iterdir():
            for path in folder.iterdir():
                if not known(bytes.fromhex(folder.name + path.name)):
                    path.unlink()
                    removed += 1
        return removed


def _damaged(sha256: bytes, what: str) -> DataLoss:
    return DataLoss(
        f"the stored content {sha256.hex()} {what}",
        reason="CONTENT_DAMAGED",
        hint="add the image again with its original bytes, or restore the collection from a backup",
    )
