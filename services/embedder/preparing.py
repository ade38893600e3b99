"""Makes items of an AddImages stream ready to be committed: hashed, compared, decoded, embedded, their files written.

What the collection knows already is neither decoded nor embedded: neither an image that has not changed, nor a content
that another image has. What comes with its vector is decoded, and not embedded.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from services.common.decoding import Decoded
from services.embedder.collections.collection import Collection
from services.embedder.collections.faults import storage_faults
from services.embedder.collections.model import Add, Facts
from services.embedder.embedding import Embedding
from services.embedder.vectors import given_vector
from warmer.errors import WarmerError
from warmer.names import check_image_id


@dataclass(frozen=True)
class Incoming:
    """An image as it comes from the client."""

    offset: int
    image_id: str
    content: bytes
    source: str
    vector: bytes = b""
    vector_model: str = ""


@dataclass(frozen=True)
class Prepared:
    """An item that is ready to be committed (`add`), or has failed (`error`). `sha256` is empty when the id is bad."""

    offset: int
    image_id: str
    sha256: bytes
    add: Add | None = None
    error: WarmerError | None = None


@dataclass(frozen=True)
class _Made:
    """What a content was made into."""

    facts: Facts
    vector: np.ndarray
    staged: Path


class Preparer:
    """Prepares items for one collection."""

    def __init__(self, collection: Collection, embedding: Embedding, executor: Executor) -> None:
        self._collection = collection
        self._embedding = embedding
        self._executor = executor

    async def prepare(self, items: Sequence[Incoming]) -> list[Prepared]:
        """One result for each item, in order. Raises what the disk raises; see `storage_error`."""
        loop = asyncio.get_running_loop()
        looked, known = await loop.run_in_executor(self._executor, self._look, items)
        new: dict[bytes, Add] = {}
        for item in looked:
            if item.add is not None and item.sha256 not in known:
                same = new.get(item.sha256)
                if same is None or same.vector is None:
                    new[item.sha256] = item.add
        made = await self._make(new)
        return [_finished(item, made.get(item.sha256)) for item in looked]

    async def embed(self, offset: int, add: Add) -> Prepared:
        """Prepares an item without asking whether its content is known."""
        made = await self._make({add.sha256: add})
        return _finished(Prepared(offset, add.image_id, add.sha256, add), made[add.sha256])

    def discard(self, prepared: Iterable[Prepared]) -> None:
        """Removes the files of items that will not be committed."""
        self._unlink({item.add.staged for item in prepared if item.add is not None and item.add.staged is not None})

    def _unlink(self, staged: Iterable[Path]) -> None:
        for path in staged:
            self._executor.submit(self._collection.objects.discard, path)

    def _look(self, items: Sequence[Incoming]) -> tuple[list[Prepared], set[bytes]]:
        """Checks ids and vectors, hashes contents; the second value holds the hashes that the collection has."""
        looked = []
        for item in items:
            try:
                check_image_id(item.image_id)
                vector = given_vector(item.vector, item.vector_model, self._collection.info)
            except WarmerError as error:
                looked.append(Prepared(item.offset, item.image_id, b"", error=error))
                continue
            sha256 = hashlib.sha256(item.content).digest()
            add = Add(item.image_id, sha256, item.content, item.source, vector=vector)
            looked.append(Prepared(item.offset, item.image_id, sha256, add))
        with self._collection.reading() as record:
            return looked, record.known_contents([item.sha256 for item in looked])

    async def _make(self, adds: dict[bytes, Add]) -> dict[bytes, "_Made | WarmerError"]:
        """Decodes, embeds and stores contents, by their SHA-256."""
        made: dict[bytes, _Made | WarmerError] = {}
        good: dict[bytes, Decoded] = {}
        results = await self._embedding.decode([add.content for add in adds.values()])
        for sha256, result in zip(adds, results, strict=True):
            if isinstance(result, WarmerError):
                made[sha256] = result
            else:
                good[sha256] = result
        if not good:
            return made
        vectors, staged = await self._embed_and_stage([(adds[sha256], good[sha256].pixels) for sha256 in good])
        for sha256, vector, path in zip(good, vectors, staged, strict=True):
            if isinstance(vector, WarmerError):
                made[sha256] = vector
                self._unlink([path])
            else:
                decoded = good[sha256]
                made[sha256] = _Made(Facts(decoded.media_type, decoded.width, decoded.height), vector, path)
        return made

    async def _embed_and_stage(
        self, images: Sequence[tuple[Add, np.ndarray]]
    ) -> tuple[list[np.ndarray | WarmerError], list[Path]]:
        """Embeds images that come without a vector, while the files of all are written."""
        contents = [add.content for add, _ in images]
        staging = asyncio.get_running_loop().run_in_executor(self._executor, self._stage, contents)
        try:
            made = iter(await self._embedding.pixels([pixels for add, pixels in images if add.vector is None]))
            vectors = [next(made) if add.vector is None else add.vector for add, _ in images]
            return vectors, await asyncio.shield(staging)
        except BaseException:
            staging.add_done_callback(self._forget)
            raise

    def _stage(self, contents: Sequence[bytes]) -> list[Path]:
        staged: list[Path] = []
        try:
            with storage_faults():
                for content in contents:
                    staged.append(self._collection.objects.stage(content))
        except WarmerError:
            self._unlink(staged)
            raise
        return staged

    def _forget(self, staging: "asyncio.Future[list[Path]]") -> None:
        if not staging.cancelled() and staging.exception() is None:
            self._unlink(staging.result())


def _finished(item: Prepared, made: "_Made | WarmerError | None") -> Prepared:
    """The item with what its content was made into; as it was, when that is known already or the item has failed."""
    if made is None or item.add is None:
        return item
    if isinstance(made, WarmerError):
        return replace(item, add=None, error=made)
    return replace(item, add=replace(item.add, facts=made.facts, vector=made.vector, staged=made.staged))
