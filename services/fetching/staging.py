"""The hidden folder in which a model is put together, so that it appears whole or not at all.

It lies beside the place that the model will have, on the same disk, so that one rename moves it there. It outlives an
interrupted fetch, and the next fetch from the same source goes on with what it holds.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.fetched import LOCK_NAME
from services.fetching.sources import Plan
from warmer.errors import FailedPrecondition

_ORIGIN = ".origin.json"


def staging_folder(target: Path) -> Path:
    """Where the model that will lie at `target` is put together."""
    return target.with_name(f".{target.name}.part")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """The staging folder, held by this process alone. Raises FailedPrecondition (FETCH_RUNNING)."""
    folder = staging_folder(target)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(handle, folder):  # else somebody finished just now, and renamed what we opened
                yield folder
                return
        except BlockingIOError as error:
            raise FailedPrecondition(
                f"another process is fetching {target.name} already", reason="FETCH_RUNNING", hint="wait for it"
            ) from error
        finally:
            os.close(handle)


def _is_same(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def begin(folder: Path, plan: Plan) -> None:
    """Empties the folder, unless what it holds came from the same source and revision."""
    origin = {"source": plan.source, "revision": plan.revision}
    try:
        known = json.loads((folder / _ORIGIN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        known = None  # new, or killed before it was written
    if known != origin:
        for path in folder.iterdir():
            path.unlink()
        (folder / _ORIGIN).write_text(json.dumps(origin), encoding="utf-8")


def keep_only(folder: Path, names: set[str]) -> None:
    """Removes all but these files and the lock: leftovers of earlier attempts are no part of the model."""
    for path in folder.iterdir():
        if path.name not in names and path.name != LOCK_NAME:
            path.unlink()


def publish(folder: Path, target: Path) -> None:
    """Gives the folder its name, and waits until that is on the disk. `target` must not exist."""
    _sync(folder)
    folder.rename(target)
    _sync(target.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(folder: Path) -> None:
    """Removes a folder; first from sight, so that nobody loads half of it. Of a link only the link goes."""
    if folder.is_symlink():
        folder.unlink()
        return
    gone = folder.with_name(f".{folder.name.lstrip('.')}.gone")
    shutil.rmtree(gone, ignore_errors=True)  # of a removal that was killed
    folder.rename(gone)
    shutil.rmtree(gone)
