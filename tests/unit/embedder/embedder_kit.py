"""What the embedder's tests share: pictures, a running embedder on a unix socket, and short calls to it."""

import io
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from tiny_encoder import COLOURS, TinyEncoder

from services.common.server import ServiceHost
from services.common.settings import Settings, load_settings
from services.embedder.service import build
from warmer.errors import WarmerError, from_rpc_error
from warmer.v1 import common_pb2, embedder_pb2, embedder_pb2_grpc

SIZE = 48
Item = tuple[str, bytes]


def picture(colour: str, seed: int = 0, format: str = "PNG") -> bytes:
    """A picture that is mostly of one colour, with a patch that differs by seed."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIZE, SIZE, 3), COLOURS[colour], np.uint8)
    y, x = rng.integers(0, SIZE - 16, 2)
    pixels[y : y + 14, x : x + 14] = rng.integers(0, 255, 3)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def settings_for(folder: Path, **changes: object) -> Settings:
    return load_settings(data_dir=folder / "data", decode_workers=1, threads=2, log_level="warning", **changes)


class Api:
    """A stub with the calls that tests make again and again."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = embedder_pb2_grpc.EmbedderServiceStub(channel)

    async def create(self, id: str = "photos") -> embedder_pb2.Collection:
        return await self.stub.CreateCollection(embedder_pb2.CreateCollectionRequest(collection_id=id))

    async def add(
        self, items: Iterable[Item], collection: str = "collections/photos", first: int = 1
    ) -> list[embedder_pb2.AddImagesResponse]:
        async def requests() -> AsyncIterator[embedder_pb2.AddImagesRequest]:
            yield embedder_pb2.AddImagesRequest(collection=collection)
            for offset, (id, content) in enumerate(items, first):
                item = embedder_pb2.AddImagesItem(offset=offset, image_id=id, content=content, source=f"from/{id}")
                yield embedder_pb2.AddImagesRequest(item=item)

        return [response async for response in self.stub.AddImages(requests())]

    async def results(self, items: Iterable[Item], **more: object) -> list[embedder_pb2.AddImagesResult]:
        return [result for response in await self.add(items, **more) for result in response.results]

    async def search(self, *terms: common_pb2.QueryTerm | str, **spec: object) -> embedder_pb2.SearchResponse:
        return await self.stub.Search(embedder_pb2.SearchRequest(search=spec_of(*terms, **spec)))

    async def ids(self, *terms: common_pb2.QueryTerm | str, **spec: object) -> list[str]:
        return [hit.image_id for hit in (await self.search(*terms, **spec)).hits]

    async def content(self, id: str, max_edge: int = 0) -> tuple[str, bytes]:
        request = embedder_pb2.GetImageContentRequest(name=f"collections/photos/images/{id}", max_edge=max_edge)
        parts = [part async for part in self.stub.GetImageContent(request)]
        return parts[0].media_type, b"".join(part.chunk for part in parts)


def spec_of(*terms: common_pb2.QueryTerm | str, **spec: object) -> common_pb2.SearchSpec:
    made = [common_pb2.QueryTerm(text=term) if isinstance(term, str) else term for term in terms]
    return common_pb2.SearchSpec(terms=made, **{"collection": "collections/photos", **spec})


@asynccontextmanager
async def running(settings: Settings, encoder: TinyEncoder | None = None) -> AsyncIterator[Api]:
    """An embedder in this process, behind a real gRPC server on a unix socket."""
    host = ServiceHost(settings)
    tiny = encoder or TinyEncoder()
    target = f"unix:{settings.data_dir.parent}/s"
    try:
        host.add(await build(settings, load=lambda _: tiny))
        await host.start(target)
        await host.warm()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield Api(channel)
    finally:
        await host.stop(5)


@asynccontextmanager
async def refused(reason: str, kind: type[WarmerError] = WarmerError) -> AsyncIterator[list[WarmerError]]:
    """Expects the block to fail with this reason; the error is in the list afterwards."""
    seen: list[WarmerError] = []
    with pytest.raises(grpc.RpcError) as caught:
        yield seen
    error = from_rpc_error(caught.value)
    assert error.reason == reason, error
    assert isinstance(error, kind), error
    seen.append(error)
