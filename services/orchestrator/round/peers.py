"""The other three services, as the round sees them: a few calls each, with errors that name who failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy as np

from services.common.failures import to_warmer_error
from warmer.errors import WarmerError, from_status
from warmer.names import image_name
from warmer.v1 import captioner_pb2, common_pb2, embedder_pb2, rewriter_pb2
from warmer.v1.captioner_pb2_grpc import CaptionerServiceStub
from warmer.v1.embedder_pb2_grpc import EmbedderServiceStub
from warmer.v1.rewriter_pb2_grpc import RewriterServiceStub

T = TypeVar("T")


@dataclass(frozen=True)
class Peers:
    """The three services that the orchestrator calls."""

    embedder: Embedder
    captioner: Captioner
    rewriter: Rewriter


class Embedder:
    """Collections, searches and vectors. Raises the embedder's errors, or those of `services.common.failures`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = EmbedderServiceStub(channel)

    async def model(self) -> str:
        """Identity of the model that the embedder runs."""
        return (await _answer("embedder", self._stub.GetModel(common_pb2.GetModelRequest()))).id

    async def collection(self, name: str) -> embedder_pb2.Collection:
        """One collection."""
        request = embedder_pb2.GetCollectionRequest(name=name)
        return await _answer("embedder", self._stub.GetCollection(request))

    async def search(self, search: common_pb2.SearchSpec) -> embedder_pb2.SearchResponse:
        """The hits of one search."""
        return await _answer("embedder", self._stub.Search(embedder_pb2.SearchRequest(search=search)))

    async def embed_texts(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors, (N, D)."""
        response = await _answer("embedder", self._stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=texts)))
        return np.frombuffer(response.vectors, dtype="<f4").reshape(len(texts), response.dimensions)

    async def embed_image(self, image: bytes) -> bytes:
        """The unit vector of an image file, as little-endian float32 values."""
        request = embedder_pb2.EmbedImagesRequest(images=[image])
        response = await _answer("embedder", self._stub.EmbedImages(request))
        embedding = response.embeddings[0]
        error = from_status(embedding.status)
        if error is not None:
            raise error
        return embedding.vector

    async def content(self, collection_id: str, image_id: str, max_edge: int) -> bytes:
        """One image of a collection, downscaled."""
        name = image_name(collection_id, image_id)
        call = self._stub.GetImageContent(embedder_pb2.GetImageContentRequest(name=name, max_edge=max_edge))
        return await _answer("embedder", _joined(call))

    async def sha256(self, collection_id: str, image_id: str) -> str:
        """Lower-case hex SHA-256 of one image's content, as it is now."""
        request = embedder_pb2.GetImageRequest(name=image_name(collection_id, image_id))
        return (await _answer("embedder", self._stub.GetImage(request))).sha256

    async def captions(
        self, collection: str, image_ids: Sequence[str], model: str, prompt_version: str
    ) -> Sequence[embedder_pb2.ImageCaption]:
        """Captions kept in a collection (a resource name) of one model and prompt; for an empty model the newest."""
        request = embedder_pb2.GetCaptionsRequest(
            collection=collection, image_ids=image_ids, model=model, prompt_version=prompt_version
        )
        return (await _answer("embedder", self._stub.GetCaptions(request))).captions


class Captioner:
    """Captions of image bytes. It remembers which model answers, so that cached captions serve while it is away."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = CaptionerServiceStub(channel)
        self._model: tuple[str, str] | None = None

    async def model(self) -> tuple[str, str]:
        """Id and prompt version of the model behind the captioner: the last known, asked for once."""
        if self._model is None:
            model = await _answer("captioner", self._stub.GetModel(common_pb2.GetModelRequest()))
            self._model = (model.id, model.prompt_version)
        return self._model

    def remember(self, caption: captioner_pb2.Caption) -> None:
        """Notes which model wrote a caption just now: the captioner may have been restarted with another."""
        if caption.model:
            self._model = (caption.model, caption.prompt_version)

    def caption(self, images: Sequence[tuple[str, bytes]]) -> AsyncGenerator[list[captioner_pb2.CaptionResponse], None]:
        """Deltas and captions of (key, bytes), in groups of what has arrived meanwhile. Close it when you leave it."""
        items = [captioner_pb2.CaptionItem(key=key, image=image) for key, image in images]
        return grouped("captioner", self._stub.Caption(captioner_pb2.CaptionRequest(items=items)))


class Rewriter:
    """Rewrites of a query."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RewriterServiceStub(channel)

    def rewrite(self, request: rewriter_pb2.RewriteRequest) -> AsyncGenerator[list[rewriter_pb2.RewriteResponse], None]:
        """Deltas and the rewrite, in groups of what has arrived meanwhile. Close it when you leave it."""
        return grouped("rewriter", self._stub.Rewrite(request))


async def grouped(service: str, call: Any) -> AsyncGenerator[list[Any], None]:
    """The messages of a stream in groups: whoever stores each group (a disk write) is not run over by small ones."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    end = object()

    async def read() -> None:
        try:
            async for message in call:
                queue.put_nowait(message)
        finally:
            queue.put_nowait(end)

    reader = asyncio.create_task(read())
    try:
        while (message := await queue.get()) is not end:
            group = [message]
            while not queue.empty() and (message := queue.get_nowait()) is not end:
                group.append(message)
            yield group
            if message is end:
                break
        await _answer(service, reader)
    finally:
        call.cancel()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _joined(call: Any) -> bytes:
    return b"".join([response.chunk async for response in call])


async def _answer(service: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except (grpc.RpcError, WarmerError) as error:
        failure = to_warmer_error(error)
        failure.metadata.setdefault("service", service)
        raise failure from error
