"""The blocking client: :class:`Client`. Its asyncio twin is :class:`warmer.aio.Client`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from warmer import _requests
from warmer._settings import Targets
from warmer._sync.calls import call
from warmer._sync.collections import Collections
from warmer._sync.sessions import Session, Sessions
from warmer.channel import DEFAULT_ROUND_TIMEOUT_S, DEFAULT_TIMEOUT_S, MAX_MESSAGE_BYTES, Option, Tls, make_channel
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
    """Talks to Warmer's services. Safe to share between threads; close it, or use it in a ``with`` statement.

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
            address: make_channel(
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

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; running calls are cancelled."""
        for channel in self._channels.values():
            channel.close()

    def model(self) -> Model:
        """The embedding model that the server runs."""
        return Model.from_proto(call(self._embedder.GetModel, common_pb2.GetModelRequest()))

    def search(
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
        """The best images of a collection, without a session. What is given is summed into one query.

        Args:
            collection: its id.
            text: words.
            image: an example: the bytes of an image file, or its path.
            image_id: an example from the collection.
            terms: further parts of the query, with weights.
            top_k: how many hits, 1 to 10,000.
            min_similarity: leaves out hits below it.
            excluded: ids that must not be among the hits.
            preferences: evidence from choices, see :class:`~warmer.types.Preference`.
            min_revision: answer only from a state at least as new (read your writes).
            rerank: how many of the best hits the model's matching head re-ranks by reading words and image together;
                at most 1,000. It needs words, and a model with such a head (BLIP; see ``model().can_rerank``). Slow:
                start with tens.
            timeout_s: None is the client's.

        Raises:
            InvalidArgument: ``EMPTY_QUERY``, ``BAD_TOP_K``, ``NOT_AN_IMAGE``, ``DIMENSION_MISMATCH``, ...
            FailedPrecondition: ``NO_RERANKING``, ``MODEL_MISMATCH``.
            NotFound: ``COLLECTION_NOT_FOUND``, ``IMAGE_NOT_FOUND``.
        """
        spec = _requests.search(
            collection,
            text=text,
            image=None if image is None else _requests.read_image(image),
            image_id=image_id,
            terms=terms,
            top_k=top_k,
            min_similarity=min_similarity,
            excluded=excluded,
            preferences=preferences,
            min_revision=min_revision,
            rerank=rerank,
        )
        return self.run(spec, timeout_s=timeout_s)

    def run(self, search: Search, *, timeout_s: float | None = None) -> SearchResult:
        """Runs a whole search, such as ``round.search``; see :meth:`search`."""
        return SearchResult.from_proto(call(self._embedder.Search, _requests.search_request(search), timeout_s))

    def rank(
        self,
        search: Search,
        image_ids: str | Iterable[str],
        *,
        apply_exclusions: bool = False,
        timeout_s: float | None = None,
    ) -> Ranking:
        """The exact rank and score of given images under a search, by a full scan.

        Args:
            search: such as ``round.search``; its ``top_k`` is not used.
            image_ids: at most 10,000.
            apply_exclusions: whether images that the search excludes take no part.
            timeout_s: None is the client's.
        """
        request = _requests.rank_request(search, image_ids, apply_exclusions)
        return Ranking.from_proto(call(self._embedder.RankImages, request, timeout_s))

    def embed_text(
        self, texts: str | Sequence[str], *, timeout_s: float | None = None
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of texts, (N, D) float32; a lone string gives (1, D). Sent in batches.

        Warns with :class:`~warmer.types.TruncationWarning` where a text was longer than the encoder reads.

        Raises:
            InvalidArgument: ``EMPTY_QUERY`` for an empty text.
        """
        parts = []
        for start, request in _requests.text_batches([texts] if isinstance(texts, str) else texts):
            response = call(self._embedder.EmbedText, request, timeout_s)
            parts.append(vectors(response.vectors, response.dimensions))
            _requests.warn_truncated(response.truncations, start)
        return np.concatenate(parts) if parts else np.zeros((0, self.model().dimensions), np.float32)

    def embed_images(
        self, images: Iterable[_requests.ImageInput], *, timeout_s: float | None = None
    ) -> list[ImageEmbedding]:
        """One embedding, or error, for each image: bytes of a file, or its path. Sent in batches.

        Raises:
            InvalidArgument: ``UNREADABLE_FILE`` for a path that cannot be read.
        """
        embeddings: list[ImageEmbedding] = []
        for request in _requests.image_batches(map(_requests.read_image, images)):
            response = call(self._embedder.EmbedImages, request, timeout_s)
            dimensions, model = response.dimensions, response.model
            embeddings += [ImageEmbedding.from_proto(item, dimensions, model) for item in response.embeddings]
        return embeddings
