"""Operations inside one SQLite transaction, and what the index must do to follow it."""

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from services.embedder.collections.keeping import Keeping
from services.embedder.collections.model import (
    Add,
    Applied,
    CollectionInfo,
    Facts,
    ForgetVectors,
    ImageCaption,
    ImageVector,
    Operation,
    Outcome,
    Remove,
)
from services.embedder.index.base import HASH_BYTES, Change, Entries

_CHANGES = (Outcome.ADDED, Outcome.REPLACED, Outcome.REMOVED)
_VECTOR = np.dtype("<f4")
_NEW = (
    "INSERT INTO contents (sha256, media_type, width, height, size_bytes) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_SHARED_VECTOR = "SELECT vector FROM vectors JOIN images USING (number) WHERE sha256 = ? LIMIT 1"


class Transaction:
    """Applies operations one by one over an open transaction; `finish` says what they came to."""

    def __init__(self, connection: sqlite3.Connection, info: CollectionInfo, now_us: int) -> None:
        self._sql = connection
        self._info = info
        self._now_us = now_us
        self._keeping = Keeping(connection, info, now_us)
        self._removed: dict[str, None] = {}  # ids of the index that go away or change; a dict keeps their order
        self._added: dict[str, tuple[int, bytes, bytes]] = {}  # id -> number, sha256, vector
        self._maybe_orphans: dict[bytes, None] = {}
        self._count = 0
        self._bytes = 0

    def apply(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Applies the operations of one request, one outcome each, up to and including the first MISSING."""
        outcomes: list[Outcome] = []
        for operation in operations:
            outcomes.append(self._apply(operation))
            if outcomes[-1] is Outcome.MISSING:
                break
        return outcomes

    def _apply(self, operation: Operation) -> Outcome:
        match operation:
            case Add():
                return self._add(operation)
            case Remove():
                return Outcome.REMOVED if self._drop(operation.image_id) else Outcome.ABSENT
            case ImageCaption():
                return self._keeping.keep_caption(operation)
            case ImageVector():
                return self._keeping.keep_vector(operation)
            case ForgetVectors():
                return self._keeping.forget(operation)

    def _add(self, add: Add) -> Outcome:
        row = self._sql.execute("SELECT sha256 FROM images WHERE image_id = ?", (add.image_id,)).fetchone()
        if row is not None and row[0] == add.sha256:
            return Outcome.UNCHANGED
        vector = self._vector(add)
        if vector is None:
            return Outcome.MISSING
        replaced = self._drop(add.image_id)
        if add.facts is not None:
            self._add_content(add, add.facts)
        number = self._sql.execute(
            "INSERT INTO images (image_id, sha256, source, create_us) VALUES (?, ?, ?, ?)",
            (add.image_id, add.sha256, add.source, self._now_us),
        ).lastrowid
        assert number is not None  # an INSERT always has one
        self._sql.execute("INSERT INTO vectors (number, vector) VALUES (?, ?)", (number, vector))
        self._keeping.added(number, add.sha256)
        self._added[add.image_id] = (number, add.sha256, vector)
        self._count += 1
        return Outcome.REPLACED if replaced else Outcome.ADDED

    def _vector(self, add: Add) -> bytes | None:
        if add.vector is not None and add.facts is not None:
            return add.vector.astype(_VECTOR, copy=False).tobytes()
        shared = self._sql.execute(_SHARED_VECTOR, (add.sha256,)).fetchone()
        return None if shared is None else bytes(shared[0])

    def _add_content(self, add: Add, facts: Facts) -> None:
        values = (add.sha256, facts.media_type, facts.width, facts.height, len(add.content))
        if self._sql.execute(_NEW, values).rowcount:
            self._bytes += len(add.content)

    def _drop(self, image_id: str) -> bool:
        row = self._sql.execute("SELECT number, sha256 FROM images WHERE image_id = ?", (image_id,)).fetchone()
        if row is None:
            return False
        number, sha256 = row
        self._keeping.dropped(number)
        self._sql.execute("DELETE FROM vectors WHERE number = ?", (number,))
        self._sql.execute("DELETE FROM images WHERE number = ?", (number,))
        if self._added.pop(image_id, None) is None:
            self._removed[image_id] = None
        self._maybe_orphans[sha256] = None
        self._count -= 1
        return True

    def _delete_orphans(self) -> list[bytes]:
        orphans = []
        for sha256 in self._maybe_orphans:
            if self._sql.execute("SELECT 1 FROM images WHERE sha256 = ? LIMIT 1", (sha256,)).fetchone() is None:
                sql = "DELETE FROM contents WHERE sha256 = ? RETURNING size_bytes"
                self._keeping.orphaned(sha256)
                self._bytes -= self._sql.execute(sql, (sha256,)).fetchone()[0]
                orphans.append(sha256)
        return orphans

    def finish(self, outcomes: Sequence[Sequence[Outcome]]) -> Applied:
        """Updates the collection's own row, if anything changed; the commit is the caller's."""
        orphans = self._delete_orphans()
        self._info = replace(self._info, vector_sets=self._keeping.finish())
        if any(outcome in _CHANGES for request in outcomes for outcome in request):
            self._info = replace(
                self._info,
                revision=self._info.revision + 1,
                token=secrets.randbits(62),
                image_count=self._info.image_count + self._count,
                content_bytes=self._info.content_bytes + self._bytes,
                update_us=max(self._now_us, self._info.update_us),
            )
            info = self._info
            self._sql.execute(
                "UPDATE collection SET revision = ?, token = ?, image_count = ?, content_bytes = ?, update_us = ?",
                (info.revision, info.token, info.image_count, info.content_bytes, info.update_us),
            )
        change = Change(self._info.revision, list(self._removed), self._entries())
        return Applied(outcomes, change, orphans, self._info)

    def _entries(self) -> Entries:
        rows = self._added.values()
        vectors = np.frombuffer(b"".join(row[2] for row in rows), _VECTOR)
        return Entries(
            np.fromiter((row[0] for row in rows), np.int64, len(rows)),
            list(self._added),
            np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(-1, HASH_BYTES),
            vectors.reshape(-1, self._info.dimensions),
        )
