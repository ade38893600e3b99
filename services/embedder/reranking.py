"""Re-ranks the first hits of a search by the model's matching head, which reads the words and the image together.

Li et al. 2022 (https://arxiv.org/abs/2201.12086, section 5.1) rank images by their embeddings, and the first ones anew
by the matching head. It needs the pictures themselves: they are read from the collection's files and decoded as for
indexing, one portion while the portion before it is scored.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
import structlog

from services.common.decoding import Decoded
from services.embedder.collections.collection import Collection
from services.embedder.embedding import Embedding
from services.embedder.query import Query
from services.embedder.scoring import Found
from warmer.errors import DataLoss, FailedPrecondition, Internal, InvalidArgument, WarmerError

_log = structlog.get_logger(__name__)

_PORTION = 32  # images that are held decoded at once, twice over

_Portion = list[Decoded | WarmerError]


class Reranker:
    """Re-ranks hits of one collection. `storage` is where its files are read."""

    def __init__(self, collection: Collection, embedding: Embedding, storage: Executor) -> None:
        self._collection = collection
        self._embedding = embedding
        self._storage = storage

    def check(self) -> None:
        """Raises FailedPrecondition (NO_RERANKING) when the model has no matching head."""
        if not self._embedding.can_match:
            raise FailedPrecondition(
                f"{self._embedding.encoder.id} has no image-text matching head, so it cannot re-rank",
                reason="NO_RERANKING",
                field="search.rerank_count",
                hint="leave it away, or use a model whose GetModel says can_rerank: BLIP with its matching head",
            )

    async def rerank(self, found: Found, query: Query) -> Found:
        """The first `rerank_count` hits ordered by score + match, then the others; all cut to `top_k`.

        An image that cannot be read keeps its place among those without a match, behind the re-ranked ones. Raises
        Internal (MODEL_FAILED) and Unavailable (SHUTTING_DOWN).
        """
        count = min(query.rerank_count, len(found.ids))
        matches = np.full(len(found.ids), np.nan, np.float32)
        matches[:count] = await self._matches(found, count, query.rerank_text)
        return _ordered(found, matches, query.top_k)

    async def _matches(self, found: Found, count: int, text: str) -> list[float]:
        """A logit for each of the first `count` hits, NaN for one that cannot be read."""
        logits: list[float] = []
        starts = range(0, count, _PORTION)
        ahead = [self._start(found, start, count) for start in starts[:1]]
        try:
            for start in starts:
                portion = await ahead.pop()
                if start + _PORTION < count:
                    ahead.append(self._start(found, start + _PORTION, count))
                logits += await self._score(portion, text)
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)
        return logits

    def _start(self, found: Found, start: int, count: int) -> "asyncio.Task[_Portion]":
        part = slice(start, min(start + _PORTION, count))
        return asyncio.create_task(self._decoded(found.ids[part], [row.tobytes() for row in found.hashes[part]]))

    async def _score(self, portion: _Portion, text: str) -> list[float]:
        pixels = [image.pixels for image in portion if isinstance(image, Decoded)]
        results = iter(await self._embedding.matches(text, pixels))
        logits = []
        for image in portion:
            result = next(results) if isinstance(image, Decoded) else float("nan")
            if isinstance(result, WarmerError):
                raise result  # the model is at fault, not the image
            logits.append(result)
        return logits

    async def _decoded(self, ids: Sequence[str], hashes: Sequence[bytes]) -> _Portion:
        """The images as the encoder wants them; an error for those that cannot be read or decoded."""
        contents = await asyncio.get_running_loop().run_in_executor(self._storage, self._read, hashes)
        decoded = iter(await self._embedding.decode([content for content in contents if isinstance(content, bytes)]))
        portion = [next(decoded) if isinstance(content, bytes) else content for content in contents]
        for id, image in zip(ids, portion, strict=True):
            if isinstance(image, WarmerError):
                _check_fault(image)
                _log.warning(
                    "hit is not re-ranked, its image cannot be read",
                    collection=self._collection.info.id,
                    image_id=id,
                    reason=image.reason,
                    error=image.message,
                )
        return portion

    def _read(self, hashes: Sequence[bytes]) -> list[bytes | WarmerError]:
        return [_tried(lambda sha256=sha256: self._content(sha256)) for sha256 in hashes]  # type: ignore[misc]

    def _content(self, sha256: bytes) -> bytes:
        with self._collection.reading():
            return self._collection.objects.read(sha256)


def _tried(read: Callable[[], bytes]) -> bytes | WarmerError:
    try:
        return read()
    except WarmerError as error:
        return error


def _check_fault(error: WarmerError) -> None:
    """Raises an error that is not about one image: a collection that was deleted, a decoder that is shutting down."""
    if not isinstance(error, InvalidArgument | DataLoss | Internal):
        raise error


def _ordered(found: Found, matches: np.ndarray, top_k: int) -> Found:
    """Hits with a match by score + match, before those without one; equal ones as they were."""
    totals = np.where(np.isnan(matches), -np.inf, found.scores + matches)
    order = np.argsort(-totals, kind="stable")[:top_k]
    return replace(
        found,
        ids=[found.ids[place] for place in order.tolist()],
        scores=found.scores[order],
        similarities=found.similarities[order],
        hashes=found.hashes[order],
        matches=matches[order],
    )
