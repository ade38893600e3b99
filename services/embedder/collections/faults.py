"""The errors of collections: what disks and SQLite raise, turned into errors that say what to do, and their own."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from services.embedder.collections.model import CollectionInfo
from warmer.errors import DataLoss, FailedPrecondition, Internal, NotFound, ResourceExhausted, WarmerError
from warmer.names import collection_name

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


def gone(name: str) -> NotFound:
    """The error of a collection that is not there, or not any more."""
    return NotFound(
        f"there is no collection {name}",
        reason="COLLECTION_NOT_FOUND",
        resource=name,
        hint="ListCollections names those that exist",
    )


def model_mismatch(info: CollectionInfo, server_model: str) -> FailedPrecondition:
    """The error of a collection whose vectors another model made than the one that this server runs."""
    missing = info.missing_vectors(server_model)
    return FailedPrecondition(
        f"{collection_name(info.id)} was embedded by {info.model}, this server runs {server_model}, "
        f"of which {missing:,} of {info.image_count:,} images have no vector",
        reason="MODEL_MISMATCH",
        resource=collection_name(info.id),
        hint=f"`warmer collections reembed {info.id}` makes those that are missing; or start a server with that model",
        metadata={"collection_model": info.model, "server_model": server_model},
    )
