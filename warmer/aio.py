"""The asyncio client: :class:`Client`, with the methods of the blocking :class:`warmer.Client`.

What returns a value there is awaited here, what iterates there is iterated with ``async for``. Arguments and errors are
the same and are described there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from warmer import _requests
from warmer._aio.calls import call
from warmer._aio.collections import Collections
from warmer._aio.sessions import Session, Sessions
from warmer._settings import Targets
from warmer.channel import DEFAULT_ROUND_TIMEOUT_S, DEFAULT_TIMEOUT_S, MAX_MESSAGE_BYTES, Option, Tls, make_aio_channel
from warmer.types import (
    ImageEmbedding,
    Model,
    Preference,
    Ranking,
    Search,
    SearchResult,
    Term,
)
from warmer.types._convert import vectors
from warmer.v1 import common_pb2, embedder_pb2_grpc, orchestrator_pb2_grpc

__all__ = ["Client", "Collections", "Session", "Sessions"]


class Client:
    """Talks to Warmer's services. Make it inside the event loop that uses it; use ``async with``, or await ``close()``.

    Args:
        target: the orchestrator's address, any gRPC target; None is WARMER_TARGET, else ``localhost:50050``.
        embedder: the embedder's address; None is WARMER_EMBEDDER_TARGET, else the next port of the same host, or the
            same socket for a ``unix:`` target.
        timeout_s: deadline of a call that names none, in seconds.
        round_timeout_s: the same for a session's search and refine, which wait for language models.
        token: sent as ``authorization: Bearer``; only over TLS or to this very machine.
        tls: certificates; None is plain text.
        max_message_bytes: message limit in both directions; the servers' must be at least as large.
        options: further gRPC channel arguments.

    Attributes:
        collections: keeps and fills collections.
        sessions: starts and finds sessions.

    Raises:
        InvalidArgument: ``BAD_TARGET``, ``TOKEN_WITHOUT_TLS``, ``BAD_TLS_FILE``.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        embedder: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        round_timeout_s: float = DEFAULT_ROUND_TIMEOUT_S,
        token: str | None = None,
        tls: Tls | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        options: Sequence[Option] = (),
    ) -> None:
        self.targets = Targets.resolve(target, embedder)
        self._channels = {
            address: make_aio_channel(
                address,
                tls=tls,
                token=token,
                timeout_s=timeout_s,
                max_message_bytes=max_message_bytes,
                options=options,
            )
            for address in {self.targets.orchestrator, self.targets.embedder}
        }
        self._embedder = embedder_pb2_grpc.EmbedderServiceStub(self._channels[self.targets.embedder])
        orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(self._channels[self.targets.orchestrator])
        self.collections = Collections(self._embedder)
        self.sessions = Sessions(orchestrator, round_timeout_s)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; running calls are cancelled."""
        for channel in self._channels.values():
            await channel.close(None)

    async def model(self) -> Model:
        """The embedding model that the server runs."""
        return Model.from_proto(await call(self._embedder.GetModel, common_pb2.GetModelRequest()))

    async def search(
        self,
        collection: str,
        text: str | None = None,
        *,
        image: _requests.ImageInput | None = None,
        image_id: str | None = None,
        terms: Sequence[Term] = (),
        top_k: int = 10,
        min_similarity: float | None = None,
        excluded: str | Iterable[str] = (),
        preferences: Sequence[Preference] = (),
        min_revision: int = 0,
        rerank: int = 0,
        timeout_s: float | None = None,
    ) -> SearchResult:
        """The best images of a collection, without a session. What is given is summed into one query."""
        spec = _requests.search(
            collection,
            text=text,
            image=None if image is None else await asyncio.to_thread(_requests.read_image, image),
            image_id=image_id,
            terms=terms,
            top_k=top_k,
            min_similarity=min_similarity,
            excluded=excluded,
            preferences=preferences,
            min_revision=min_revision,
            rerank=rerank,
        )
        return await self.run(spec, timeout_s=timeout_s)

    async def run(self, search: Search, *, timeout_s: float | None = None) -> SearchResult:
        """Runs a whole search, such as ``round.search``; see :meth:`search`."""
        return SearchResult.from_proto(await call(self._embedder.Search, _requests.search_request(search), timeout_s))

    async def rank(
        self,
        search: Search,
        image_ids: str | Iterable[str],
        *,
        apply_exclusions: bool = False,
        timeout_s: float | None = None,
    ) -> Ranking:
        """The exact rank and score of given images under a search, by a full scan."""
        request = _requests.rank_request(search, image_ids, apply_exclusions)
        return Ranking.from_proto(await call(self._embedder.RankImages, request, timeout_s))

    async def embed_text(
        self, texts: str | Sequence[str], *, timeout_s: float | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of texts, (N, D) float32; a lone string gives (1, D). Sent in batches."""
        parts = []
        for start, request in _requests.text_batches([texts] if isinstance(texts, str) else texts):
            response = await call(self._embedder.EmbedText, request, timeout_s)
            parts.append(vectors(response.vectors, response.dimensions))
            _requests.warn_truncated(response.truncations, start)
        return np.concatenate(parts) if parts else np.zeros((0, (await self.model()).dimensions), np.float32)

    async def embed_images(
        self, images: Iterable[_requests.ImageInput], *, timeout_s: float | None = None
    ) -> list[ImageEmbedding]:
        """One embedding, or error, for each image: bytes of a file, or its path. Sent in batches."""
        embeddings: list[ImageEmbedding] = []
        contents = [await asyncio.to_thread(_requests.read_image, image) for image in images]
        for request in _requests.image_batches(contents):
            response = await call(self._embedder.EmbedImages, request, timeout_s)
            dimensions, model = response.dimensions, response.model
            embeddings += [ImageEmbedding.from_proto(item, dimensions, model) for item in response.embeddings]
        return embeddings
