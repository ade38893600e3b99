"""The record of a collection: one SQLite file that alone decides which images there are.

Two kinds of connections: one that writes, used by the collection's writer thread, and as many as needed that read,
borrowed by whichever thread wants to. In WAL mode readers never wait for the writer.
"""

import queue
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.embedder.collections import keeping, schema
from services.embedder.collections.model import (
    Applied,
    CollectionInfo,
    Facts,
    ImageCaption,
    ImageInfo,
    Operation,
    VectorSet,
    Without,
)
from services.embedder.collections.transaction import Transaction
from services.embedder.index.base import HASH_BYTES, Entries

_FETCH = 4096
_INFO = "id, model, dimensions, description, revision, token, image_count, content_bytes, create_us, update_us"
_IMAGE = "image_id, sha256, media_type, width, height, size_bytes, source, images.create_us"
_JOINED = "images JOIN contents USING (sha256)"
_UNCAPTIONED = """ AND NOT EXISTS (
    SELECT 1 FROM captions WHERE captions.sha256 = images.sha256 AND model = ? AND prompt_version = ?)"""
_UNEMBEDDED = """ AND ? <> (SELECT model FROM collection) AND NOT EXISTS (
    SELECT 1 FROM kept_vectors JOIN vector_sets ON set_number = vector_sets.number
    WHERE model = ? AND kept_vectors.number = images.number)"""
_CAPTION = """SELECT image_id, sha256, text, model, prompt_version, tokens
    FROM images JOIN captions USING (sha256) WHERE image_id = ?"""


class Record:
    """One collection's SQLite file. Methods block, and raise sqlite3.Error when file or disk fail."""

    def __init__(self, path: Path) -> None:
        """Opens an existing file, and brings one of an older version up to date.

        Raises FailedPrecondition when a later version wrote it, or none did.
        """
        if not path.is_file():
            raise sqlite3.OperationalError(f"{path.name} is missing")
        self._path = path
        self._writer = schema.connect(path)
        schema.prepare(self._writer)
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._closed = False

    @staticmethod
    def create(path: Path, id: str, model: str, dimensions: int, description: str) -> None:
        """Makes the file of an empty collection."""
        now = _now_us()
        row = (id, model, dimensions, description, 0, secrets.randbits(62), 0, 0, now, now)
        connection = schema.connect(path)
        try:
            schema.create(connection)
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO collection (one, {_INFO}) VALUES (1, {marks})", row)  # noqa: S608
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def close(self) -> None:
        """Closes all connections; those that are borrowed, when they come back."""
        self._closed = True
        self._writer.close()
        while not self._readers.empty():
            self._readers.get().close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lends a connection for reading."""
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = schema.connect(self._path)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self._closed:
            connection.close()
        else:
            self._readers.put(connection)

    def info(self) -> CollectionInfo:
        """The collection's own row."""
        with self.reading() as connection:
            return _info(connection)

    def image(self, image_id: str) -> ImageInfo | None:
        """One image, or None."""
        sql = f"SELECT {_IMAGE} FROM {_JOINED} WHERE image_id = ?"  # noqa: S608
        with self.reading() as connection:
            row = connection.execute(sql, (image_id,)).fetchone()
        return None if row is None else _image(row)

    def images_after(self, image_id: str, limit: int, without: Without) -> list[ImageInfo]:
        """At most `limit` images with a larger id that lack what `without` says, by id."""
        sql = f"SELECT {_IMAGE} FROM {_JOINED} WHERE image_id > ?"  # noqa: S608
        values: list[str | int] = [image_id]
        if without.captions_of:
            sql += _UNCAPTIONED
            values += [without.captions_of, without.prompt_version]
        if without.vectors_of:
            sql += _UNEMBEDDED
            values += [without.vectors_of, without.vectors_of]
        with self.reading() as connection:
            return [_image(row) for row in connection.execute(sql + " ORDER BY image_id LIMIT ?", (*values, limit))]

    def captions(self, image_ids: Sequence[str], model: str, prompt_version: str) -> list[ImageCaption]:
        """The kept captions of a model and prompt, in the order of the ids; of any, the newest, for an empty model."""
        sql = _CAPTION
        values = [model, prompt_version] if model else []
        if model:
            sql += " AND model = ? AND prompt_version = ?"
        sql += " ORDER BY captions.create_us DESC, model, prompt_version LIMIT 1"
        with self.reading() as connection:
            rows = [connection.execute(sql, (id, *values)).fetchone() for id in image_ids]
        return [ImageCaption(*row) for row in rows if row is not None]

    def known_contents(self, hashes: Sequence[bytes]) -> set[bytes]:
        """Those SHA-256 whose content some image has."""
        with self.reading() as connection:
            find = "SELECT 1 FROM contents WHERE sha256 = ?"
            return {sha256 for sha256 in set(hashes) if connection.execute(find, (sha256,)).fetchone()}

    def knows_content(self, sha256: bytes) -> bool:
        """Whether any image has this content. Writer thread."""
        return self._writer.execute("SELECT 1 FROM contents WHERE sha256 = ?", (sha256,)).fetchone() is not None

    def numbers(self) -> dict[int, tuple[str, bytes]]:
        """Image id and SHA-256 by number, of all images. Writer thread."""
        rows = self._writer.execute("SELECT number, image_id, sha256 FROM images")
        return {number: (image_id, sha256) for number, image_id, sha256 in rows}

    def entries(self, dimensions: int, numbers: Sequence[int] | None = None) -> Iterator[Entries]:
        """All images with their vectors, or those of `numbers`, in pieces and by number. Writer thread."""
        sql = "SELECT number, image_id, sha256, vector FROM images JOIN vectors USING (number)"
        if numbers is None:
            cursor = self._writer.execute(sql + " ORDER BY number")
            while rows := cursor.fetchmany(_FETCH):
                yield _entries(rows, dimensions)
            return
        for first in range(0, len(numbers), _FETCH):
            some = [
                self._writer.execute(sql + " WHERE number = ?", (n,)).fetchone()
                for n in numbers[first : first + _FETCH]
            ]
            yield _entries(some, dimensions)

    def apply(self, requests: Sequence[Sequence[Operation]]) -> Applied:
        """Applies the operations of several requests in order, in one transaction that is durable when this returns.

        A request stops at its first MISSING, so that what comes after it still comes after it. The revision stays when
        nothing was added or removed. On an exception nothing has happened. Writer thread.
        """
        with self._transaction():
            transaction = Transaction(self._writer, _info(self._writer), _now_us())
            return transaction.finish([transaction.apply(operations) for operations in requests])

    def adopt(self, taken: VectorSet) -> CollectionInfo:
        """Makes a complete set of kept vectors the collection's own; see `keeping.adopt`. Writer thread."""
        with self._transaction():
            return keeping.adopt(self._writer, _info(self._writer), taken, _now_us())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commits what the block did, durably; on an exception nothing has happened."""
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise


def _info(connection: sqlite3.Connection) -> CollectionInfo:
    row = connection.execute(f"SELECT {_INFO} FROM collection").fetchone()  # noqa: S608
    if row is None:
        raise sqlite3.DatabaseError("the collection's own row is missing")
    return replace(CollectionInfo(*row), vector_sets=keeping.vector_sets(connection))


def _image(row: tuple[str, bytes, str, int, int, int, str, int]) -> ImageInfo:
    image_id, sha256, media_type, width, height, size, source, create_us = row
    return ImageInfo(image_id, sha256, Facts(media_type, width, height), size, source, create_us)


def _entries(rows: Sequence[tuple[int, str, bytes, bytes]], dimensions: int) -> Entries:
    numbers, ids, hashes, vectors = zip(*rows, strict=True)
    return Entries(
        np.array(numbers, np.int64),
        list(ids),
        np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
        np.frombuffer(b"".join(vectors), np.dtype("<f4")).reshape(-1, dimensions),
    )


def _now_us() -> int:
    return time.time_ns() // 1000
