"""The asynchronous half of a search: embeds the terms, then scores on a thread. `scoring.py` is the other half."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from services.common.telemetry import Timings
from services.embedder import scoring
from services.embedder.choice import ChoiceSimilarity
from services.embedder.collections.collection import Collection
from services.embedder.embedding import Embedding
from services.embedder.index.base import Index
from services.embedder.query import Query, Term
from services.embedder.reranking import Reranker
from services.embedder.scoring import Found, Ranks, check_length
from warmer.errors import InvalidArgument, WarmerError

T = TypeVar("T")


@dataclass(frozen=True)
class Used:
    """What a search used: (index, tokens) of its text terms, and (stage, seconds) of its stages."""

    tokens: list[tuple[int, int]]
    timings: list[tuple[str, float]]


class Searcher:
    """Runs searches. Each computes on one thread of `executor`, so as many run at once as that has. Images that are
    re-ranked are read on threads of `storage`."""

    def __init__(self, embedding: Embedding, executor: Executor, storage: Executor) -> None:
        self._embedding = embedding
        self._executor = executor
        self._storage = storage
        self._learned: ChoiceSimilarity | None = getattr(embedding.encoder, "choice", None)

    async def search(self, collection: Collection, query: Query) -> tuple[Found, Used]:
        """The best images. Raises what `scoring.search`, the encoder and the decoder raise, MODEL_MISMATCH, and
        NO_RERANKING where the query asks for it and the model cannot."""
        index = await self._index(collection)
        reranker = Reranker(collection, self._embedding, self._storage) if query.rerank_count else None
        if reranker is not None:
            reranker.check()
        timings = Timings()
        with timings.stage("embed"):
            vectors, tokens = await self._embed(query.terms, collection.info.dimensions)
        with timings.stage("score"):
            wide = replace(query, top_k=max(query.top_k, query.rerank_count))
            found = await self._on_thread(partial(scoring.search, index, wide, vectors, self._learned))
        if reranker is not None:
            with timings.stage("rerank"):
                found = await reranker.rerank(found, query)
        return found, Used(tokens, timings.stages)

    async def rank(self, collection: Collection, query: Query, ids: Sequence[str], *, excluding: bool) -> Ranks:
        """The exact ranks of images under a search, by their scores alone. `rerank_count` is not heeded: for one rank
        every image would have to be matched. Raises as `search`."""
        index = await self._index(collection)
        vectors, _ = await self._embed(query.terms, collection.info.dimensions)
        return await self._on_thread(
            partial(scoring.rank, index, query, vectors, ids, excluding=excluding, learned=self._learned)
        )

    async def _on_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    async def _index(self, collection: Collection) -> Index:
        collection.check_model()
        while (index := collection.index) is None:  # only when it could not be loaded at start, or was lost since
            await asyncio.wrap_future(collection.load())
        return index

    async def _embed(
        self, terms: Sequence[Term], dimensions: int
    ) -> tuple[list[np.ndarray | None], list[tuple[int, int]]]:
        """The unit vector of each term (None for those that name an image), and (index, tokens) of texts."""
        if all(term.kind in ("vector", "image_id") for term in terms):
            return [self._given(term, index, dimensions) for index, term in enumerate(terms)], []
        results = await asyncio.gather(*(self._term(term, index, dimensions) for index, term in enumerate(terms)))
        return [vector for vector, _ in results], [
            (index, tokens) for index, (_, tokens) in enumerate(results) if tokens
        ]

    def _given(self, term: Term, index: int, dimensions: int) -> np.ndarray | None:
        if term.vector is not None:
            check_length(term.vector, dimensions, f"search.terms[{index}].vector")
        return term.vector

    async def _term(self, term: Term, index: int, dimensions: int) -> tuple[np.ndarray | None, int]:
        if term.kind == "text":
            embedded = await self._embedding.text(term.text)
            return embedded.vector, embedded.tokens
        if term.kind == "image":
            try:
                return await self._embedding.image(term.image), 0
            except InvalidArgument as error:
                raise _at(error, f"search.terms[{index}].image") from error
        return self._given(term, index, dimensions), 0


def _at(error: WarmerError, field: str) -> InvalidArgument:
    """The error with the field that it is about."""
    return InvalidArgument(error.message, reason=error.reason, hint=error.hint, field=field, metadata=error.metadata)
