"""Puts the embedder together from its settings: claims the data folder, loads the encoder, opens the collections."""

import asyncio
from collections.abc import Callable

import structlog
from grpc import aio

from services.common.decoding import Decoder
from services.common.server import Service
from services.common.settings import Settings
from services.embedder.collections.catalog import Catalog
from services.embedder.embedding import Embedding
from services.embedder.encoders import Encoder, load_encoder
from services.embedder.servicer import EmbedderServicer
from warmer.v1 import embedder_pb2, embedder_pb2_grpc

_log = structlog.get_logger(__name__)

LoadEncoder = Callable[[Settings], Encoder]


async def build(settings: Settings, load: LoadEncoder = load_encoder) -> Service:
    """The embedder as a Service; `load` loads the encoder, and any Encoder will do.

    Raises FailedPrecondition (DATA_DIR_IN_USE) when another embedder has the data folder.
    """
    catalog = await asyncio.to_thread(Catalog, settings.data_dir)
    try:
        embedder = _Embedder(settings, catalog, Decoder(settings), load)
    except BaseException:
        catalog.close()
        raise
    return Service(
        registrations=[embedder.register],
        names=[embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name],
        warm=embedder.warm,
        close=embedder.close,
    )


class _Embedder:
    """Holds the parts between build, warm and close."""

    def __init__(self, settings: Settings, catalog: Catalog, decoder: Decoder, load: LoadEncoder) -> None:
        self._settings = settings
        self._catalog = catalog
        self._decoder = decoder
        self._load = load
        self._embedding: Embedding | None = None
        self._servicer = EmbedderServicer(settings, catalog, decoder)

    def register(self, server: aio.Server) -> None:
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(self._servicer, server)

    async def warm(self) -> None:
        encoder = await asyncio.to_thread(self._load, self._settings)
        await asyncio.to_thread(self._catalog.open, encoder.id, encoder.dimensions)
        self._embedding = Embedding(encoder, self._decoder, self._settings)
        await self._embedding.warm()
        self._servicer.attach(self._embedding)
        _log.info("embedder is warm", model=encoder.id, collections=self._catalog.count)

    async def close(self) -> None:
        self._servicer.close()
        if self._embedding is not None:
            await self._embedding.close()
        await asyncio.to_thread(self._catalog.close)
        await self._decoder.close()
