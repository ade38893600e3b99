"""Turns what disks and SQLite raise into errors that say what to do, in one place for record, objects and catalogue."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from warmer.errors import DataLoss, Internal, ResourceExhausted, WarmerError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def storage_error(error: OSError | sqlite3.Error) -> WarmerError:
    """ResourceExhausted (DISK_FULL), DataLoss (COLLECTION_DAMAGED) or Internal (STORAGE_FAILED)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    if code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in _FULL):
        return ResourceExhausted(
            "the disk is full; what was acknowledged is safe",
            reason="DISK_FULL",
            hint="free some space and send the rest again",
        )
    if code in _DAMAGED:
        return DataLoss(
            f"the record of the collection is damaged: {error}",
            reason="COLLECTION_DAMAGED",
            hint="restore its folder from a backup, or delete the collection and index it again",
        )
    return Internal(f"the collection could not be read or written: {error}", reason="STORAGE_FAILED")


@contextmanager
def storage_faults() -> Iterator[None]:
    """Within the block, OSError and sqlite3.Error become errors of `storage_error`."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise storage_error(error) from error
