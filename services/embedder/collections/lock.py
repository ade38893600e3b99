"""One writer per folder, by a lock that the system takes away from a dead owner."""

import fcntl
import os
from pathlib import Path

from warmer.errors import FailedPrecondition

_NAME = "lock"


class FolderLock:
    """An flock on `<folder>/lock`, held until `release` or the end of the process. The file names its owner."""

    def __init__(self, folder: Path) -> None:
        """Raises FailedPrecondition (DATA_DIR_IN_USE) when another process, or another part of this one, holds it."""
        handle = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            os.close(handle)
            raise FailedPrecondition(
                f"another embedder (process {owner or 'unknown'}) is using {folder}",
                reason="DATA_DIR_IN_USE",
                hint="stop it, or give this one another WARMER_DATA_DIR",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        self._handle: int | None = handle

    def release(self) -> None:
        """Gives the folder back. Does nothing the second time."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
