"""The part of a file that an interrupted download left, and what the server said of the file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from services.fetching.lock import LockedFile


class Part:
    """The part of a file that is there, and its sum so far, which is kept so that attempts do not read it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark_path = path.with_suffix(".mark")
        self._digest = hashlib.sha256()
        self.size = 0
        if path.is_file():
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    self._digest.update(chunk)
                    self.size += len(chunk)

    def mark(self) -> dict[str, str]:
        """What the server said of the file when this part was begun."""
        try:
            content: dict[str, str] = json.loads(self.mark_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # a kill came before it was written; then the sizes must tell
        return content

    def restart(self, mark: dict[str, str]) -> None:
        """Forgets what is there."""
        if self.size:
            self.path.unlink()
        self._digest, self.size = hashlib.sha256(), 0
        self.mark_path.write_text(json.dumps(mark), encoding="utf-8")

    def append(self, chunks: Iterable[bytes], on_bytes: Callable[[int], object]) -> None:
        """Adds what comes; if it breaks off, what came before is kept."""
        with self.path.open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
                self._digest.update(chunk)
                self.size += len(chunk)
                on_bytes(len(chunk))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, target: Path) -> LockedFile:
        """Gives the file its name."""
        self.path.replace(target)
        self.mark_path.unlink(missing_ok=True)
        return LockedFile(target.name, self.size, self._digest.hexdigest())

    @property
    def sha256(self) -> str:
        """The sum of what is there."""
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Removes the file."""
        self.path.unlink(missing_ok=True)
        self.mark_path.unlink(missing_ok=True)
