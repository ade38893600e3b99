"""A real embedded Valkey for each module, stand-ins for the other three services, and orchestrators on real gRPC."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from orchestrator_peers import PlainCaptioner, PlainEmbedder, PlainRewriter

from services.common.channels import make_service_channel
from services.common.server import make_server
from services.common.settings import Settings, load_settings
from services.orchestrator.options import OrchestratorOptions
from services.orchestrator.service import Orchestrator, assemble
from services.orchestrator.store.database import Database
from services.orchestrator.store.embedded import EmbeddedServer
from warmer.channel import make_aio_channel
from warmer.v1 import captioner_pb2_grpc, embedder_pb2_grpc, orchestrator_pb2_grpc, rewriter_pb2_grpc


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="w"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[EmbeddedServer]:
    folder = Path(tempfile.mkdtemp(prefix="w"))
    server = EmbeddedServer(folder / "redis")
    server.enter()
    yield server
    server.leave()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def database(redis_server: EmbeddedServer) -> AsyncIterator[Database]:
    """An empty database."""
    database = Database.from_socket(redis_server.socket)
    await database.command("FLUSHALL")
    yield database
    await database.close()


class Stack:
    """The three stand-ins, and orchestrators that share one Redis."""

    def __init__(self, folder: Path, settings: Settings, exits: AsyncExitStack) -> None:
        self.folder = folder
        self.settings = settings
        self.embedder = PlainEmbedder()
        self.captioner = PlainCaptioner()
        self.rewriter = PlainRewriter()
        self.options = OrchestratorOptions(default_strategy="rewrite", lease_s=5.0, drain_s=0.5)
        self._exits = exits
        self._count = 0

    @property
    def peers_target(self) -> str:
        return f"unix:{self.folder}/peers.sock"

    async def start_peers(self) -> None:
        server = make_server(self.settings)
        embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(self.embedder, server)
        captioner_pb2_grpc.add_CaptionerServiceServicer_to_server(self.captioner, server)
        rewriter_pb2_grpc.add_RewriterServiceServicer_to_server(self.rewriter, server)
        server.add_insecure_port(self.peers_target)
        await server.start()
        self._exits.push_async_callback(server.stop, 0)

    async def replica(
        self, database: Database, **options: object
    ) -> tuple[orchestrator_pb2_grpc.OrchestratorServiceStub, Orchestrator]:
        """One more orchestrator on the same Redis, and a stub for it."""
        self._count += 1
        channels = [make_service_channel(self.peers_target, self.settings) for _ in range(3)]
        orchestrator = assemble(database, channels, dataclasses.replace(self.options, **options))
        server = make_server(self.settings)
        orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator.servicer, server)
        target = f"unix:{self.folder}/o{self._count}.sock"
        server.add_insecure_port(target)
        await server.start()
        channel = make_aio_channel(target, timeout_s=30)
        for channel_ in channels:
            self._exits.push_async_callback(channel_.close, None)
        self._exits.push_async_callback(orchestrator.owner.close)
        self._exits.push_async_callback(server.stop, 0)
        self._exits.push_async_callback(channel.close, None)
        return orchestrator_pb2_grpc.OrchestratorServiceStub(channel), orchestrator


@pytest.fixture
async def stack(short_dir: Path) -> AsyncIterator[Stack]:
    async with AsyncExitStack() as exits:
        stack = Stack(short_dir, load_settings(data_dir=short_dir), exits)
        await stack.start_peers()
        yield stack


@pytest.fixture
async def stub(stack: Stack, database: Database) -> orchestrator_pb2_grpc.OrchestratorServiceStub:
    """One orchestrator, strategy `rewrite` by default."""
    return (await stack.replica(database))[0]
