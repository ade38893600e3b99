"""How an index follows its record: loaded from a snapshot when that is good, brought up to date, or rebuilt.

`Source` is what it needs of the record, so that this package does not depend on SQLite.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from services.embedder.index.base import Change, Entries
from services.embedder.index.flat import FlatIndex, FlatView
from services.embedder.index.snapshot import Snapshot, SnapshotUnusable, Stamp, save

_log = structlog.get_logger(__name__)


class State(Protocol):
    """The state of a record; see `CollectionInfo`."""

    @property
    def id(self) -> str:
        """The collection."""

    @property
    def model(self) -> str:
        """Identity of the model."""

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""

    @property
    def revision(self) -> int:
        """Counts changes."""

    @property
    def token(self) -> int:
        """Random mark of the revision."""

    @property
    def image_count(self) -> int:
        """Number of images."""


class Source(Protocol):
    """The record that an index is derived from."""

    def numbers(self) -> dict[int, tuple[str, bytes]]:
        """Image id and SHA-256 by number, of all images."""

    def entries(self, dimensions: int, numbers: Sequence[int] | None = None) -> Iterator[Entries]:
        """All images with their vectors, or those of `numbers`, in pieces."""


def load_index(folder: Path, record: Source, state: State) -> tuple[FlatIndex, int]:
    """The index of a record, and how many of its changes no snapshot holds. Blocks; raises what the record raises."""
    try:
        index, behind = _from_snapshot(folder, record, state)
    except SnapshotUnusable as error:
        if state.image_count:
            _log.info("index is rebuilt from the record", collection=state.id, images=state.image_count, why=str(error))
        chunks = record.entries(state.dimensions)
        return FlatIndex(state.dimensions, chunks, size=state.image_count, revision=state.revision), state.image_count
    if behind:
        _log.info("index snapshot was behind the record", collection=state.id, changes=behind)
    return index, behind


def save_index(folder: Path, state: State, view: FlatView) -> None:
    """Saves a snapshot. A failure is logged and no more: the record holds everything."""
    stamp = Stamp(state.id, state.model, state.dimensions, state.revision, state.token, view.count)
    try:
        save(folder, stamp, view.entries)
    except OSError as error:
        _log.warning("index snapshot could not be saved", collection=state.id, error=str(error))


def _from_snapshot(folder: Path, record: Source, state: State) -> tuple[FlatIndex, int]:
    snapshot = Snapshot(folder)
    stamp = snapshot.stamp
    if (stamp.collection, stamp.model, stamp.dimensions) != (state.id, state.model, state.dimensions):
        raise SnapshotUnusable("it belongs to another collection or model")
    index = FlatIndex(state.dimensions, snapshot.chunks(), size=stamp.rows, revision=state.revision)
    behind = 0
    if (stamp.revision, stamp.token) != (state.revision, state.token):
        behind = _catch_up(index, record, state)
    if index.view().count != state.image_count:
        raise SnapshotUnusable("it does not hold the images of the record")
    return index, behind


def _catch_up(index: FlatIndex, record: Source, state: State) -> int:
    """Removes what the record does not have (any more) and adds what it has beyond the snapshot; returns how many."""
    held = index.view().entries
    known = record.numbers()
    stale = []
    for number, id, sha256 in zip(held.numbers.tolist(), held.ids, held.hashes, strict=True):
        if known.get(number) == (id, sha256.tobytes()):
            del known[number]
        else:
            stale.append(id)
    nothing = Entries(np.zeros(0, np.int64), [], held.hashes[:0], held.vectors[:0])
    index.apply(Change(state.revision, stale, nothing))
    for chunk in record.entries(state.dimensions, sorted(known)):
        index.apply(Change(state.revision, (), chunk))
    return len(stale) + len(known)
