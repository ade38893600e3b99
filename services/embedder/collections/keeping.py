"""What a collection keeps beside its images and their own vectors: captions, and vectors of other models.

None of it is searched, so it changes neither revision nor index. It lives and dies in the transactions that change the
images: a kept vector goes with its image, a caption with its content.
"""

import secrets
import sqlite3
from dataclasses import replace

from services.embedder.collections.model import (
    CollectionInfo,
    ForgetVectors,
    ImageCaption,
    ImageVector,
    Outcome,
    VectorSet,
)

_CAPTION = (
    "INSERT OR REPLACE INTO captions (sha256, model, prompt_version, text, tokens, create_us) VALUES (?, ?, ?, ?, ?, ?)"
)
_SHARED = (
    "INSERT INTO kept_vectors (set_number, number, vector) SELECT set_number, ?, vector FROM kept_vectors "
    "JOIN images USING (number) WHERE sha256 = ? AND set_number = ? LIMIT 1"
)


def vector_sets(connection: sqlite3.Connection) -> tuple[VectorSet, ...]:
    """The kept sets, by model."""
    rows = connection.execute("SELECT model, dimensions, image_count FROM vector_sets ORDER BY model")
    return tuple(VectorSet(*row) for row in rows)


class Keeping:
    """Kept captions and vectors inside one open transaction; `finish` writes the counts."""

    def __init__(self, connection: sqlite3.Connection, info: CollectionInfo, now_us: int) -> None:
        self._sql = connection
        self._info = info
        self._now_us = now_us
        self._sets = {found.model: found for found in info.vector_sets}
        self._numbers: dict[str, int] = dict(connection.execute("SELECT model, number FROM vector_sets"))

    def keep_caption(self, caption: ImageCaption) -> Outcome:
        """KEPT or STALE."""
        if self._number(caption.image_id, caption.sha256) is None:
            return Outcome.STALE
        values = (caption.sha256, caption.model, caption.prompt_version, caption.text, caption.tokens, self._now_us)
        self._sql.execute(_CAPTION, values)
        return Outcome.KEPT

    def keep_vector(self, kept: ImageVector) -> Outcome:
        """KEPT, STALE, OTHER_LENGTH, or UNCHANGED for the model that is searched with."""
        if kept.dimensions != self._dimensions(kept):
            return Outcome.OTHER_LENGTH
        number = self._number(kept.image_id, kept.sha256)
        if number is None:
            return Outcome.STALE
        if kept.model == self._info.model:
            return Outcome.UNCHANGED
        set_number = self._open_set(kept.model, kept.dimensions)
        sql = "INSERT OR IGNORE INTO kept_vectors (set_number, number, vector) VALUES (?, ?, ?)"
        if self._sql.execute(sql, (set_number, number, kept.vector)).rowcount:
            self._count(kept.model, 1)
        else:
            sql = "UPDATE kept_vectors SET vector = ? WHERE set_number = ? AND number = ?"
            self._sql.execute(sql, (kept.vector, set_number, number))
        return Outcome.KEPT

    def forget(self, forget: ForgetVectors) -> Outcome:
        """FORGOTTEN, IN_USE or ABSENT."""
        if forget.model == self._info.model:
            return Outcome.IN_USE
        if forget.model not in self._sets:
            return Outcome.ABSENT
        self._sql.execute("DELETE FROM kept_vectors WHERE set_number = ?", (self._numbers[forget.model],))
        self._sql.execute("DELETE FROM vector_sets WHERE number = ?", (self._numbers[forget.model],))
        del self._sets[forget.model], self._numbers[forget.model]
        return Outcome.FORGOTTEN

    def added(self, number: int, sha256: bytes) -> None:
        """An image is new. Where another has the same content, it shares its kept vectors too."""
        for model, set_number in self._numbers.items():
            self._count(model, self._sql.execute(_SHARED, (number, sha256, set_number)).rowcount)

    def dropped(self, number: int) -> None:
        """An image goes; call it while its row is there."""
        sql = "DELETE FROM kept_vectors WHERE set_number = ? AND number = ?"
        for model, set_number in self._numbers.items():
            self._count(model, -self._sql.execute(sql, (set_number, number)).rowcount)

    def orphaned(self, sha256: bytes) -> None:
        """A content goes."""
        self._sql.execute("DELETE FROM captions WHERE sha256 = ?", (sha256,))

    def finish(self) -> tuple[VectorSet, ...]:
        """Writes the counts of the sets; returns the sets as they are now."""
        for found in self._sets.values():
            if found != self._info.vector_set(found.model):
                sql = "UPDATE vector_sets SET image_count = ? WHERE number = ?"
                self._sql.execute(sql, (found.image_count, self._numbers[found.model]))
        return tuple(self._sets[model] for model in sorted(self._sets))

    def _number(self, image_id: str, sha256: bytes) -> int | None:
        sql = "SELECT number FROM images WHERE image_id = ? AND sha256 = ?"
        row = self._sql.execute(sql, (image_id, sha256)).fetchone()
        return None if row is None else int(row[0])

    def _dimensions(self, kept: ImageVector) -> int:
        """How long the model's vectors are; as long as this one, when it is the first."""
        if kept.model == self._info.model:
            return self._info.dimensions
        found = self._sets.get(kept.model)
        return kept.dimensions if found is None else found.dimensions

    def _open_set(self, model: str, dimensions: int) -> int:
        if model not in self._sets:
            sql = "INSERT INTO vector_sets (model, dimensions, image_count) VALUES (?, ?, 0)"
            number = self._sql.execute(sql, (model, dimensions)).lastrowid
            assert number is not None  # an INSERT always has one
            self._sets[model], self._numbers[model] = VectorSet(model, dimensions, 0), number
        return self._numbers[model]

    def _count(self, model: str, change: int) -> None:
        found = self._sets[model]
        self._sets[model] = replace(found, image_count=found.image_count + change)


def adopt(connection: sqlite3.Connection, info: CollectionInfo, taken: VectorSet, now_us: int) -> CollectionInfo:
    """Makes a complete set the collection's own vectors, and keeps those that it had under their model's name.

    Inside an open transaction; revision and token change, since the same search now finds other images. Raises
    sqlite3.DatabaseError when the set is not what its count says.
    """
    _swap(connection, info, taken.model)
    (count,) = connection.execute("SELECT COUNT(*) FROM vectors JOIN images USING (number)").fetchone()
    if count != info.image_count:
        raise sqlite3.DatabaseError(f"{count} kept vectors of {taken.model} fit {info.image_count} images")
    changed = replace(
        info,
        model=taken.model,
        dimensions=taken.dimensions,
        revision=info.revision + 1,
        token=secrets.randbits(62),
        update_us=max(now_us, info.update_us),
        vector_sets=vector_sets(connection),
    )
    connection.execute(
        "UPDATE collection SET model = ?, dimensions = ?, revision = ?, token = ?, update_us = ?",
        (changed.model, changed.dimensions, changed.revision, changed.token, changed.update_us),
    )
    return changed


def _swap(sql: sqlite3.Connection, info: CollectionInfo, model: str) -> None:
    row = sql.execute("SELECT number FROM vector_sets WHERE model = ?", (model,)).fetchone()
    if info.image_count:  # an empty collection has nothing to keep, and may have nothing to take
        old = (info.model, info.dimensions, info.image_count)
        kept = sql.execute("INSERT INTO vector_sets (model, dimensions, image_count) VALUES (?, ?, ?)", old).lastrowid
        copy = "INSERT INTO kept_vectors (set_number, number, vector) SELECT ?, number, vector FROM vectors"
        sql.execute(copy, (kept,))
    sql.execute("DELETE FROM vectors")
    if row is not None:
        taken = "INSERT INTO vectors (number, vector) SELECT number, vector FROM kept_vectors WHERE set_number = ?"
        sql.execute(taken, row)
        sql.execute("DELETE FROM kept_vectors WHERE set_number = ?", row)
        sql.execute("DELETE FROM vector_sets WHERE number = ?", row)
