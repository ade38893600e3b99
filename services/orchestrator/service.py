"""Puts the orchestrator together from the settings: Redis, channels to the other three, and the servicer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from services.common.channels import make_service_channel
from services.common.server import Service
from services.common.settings import Settings
from services.orchestrator import strategies
from services.orchestrator.asks import Asks
from services.orchestrator.hunts import Hunts
from services.orchestrator.options import OrchestratorOptions, options_from
from services.orchestrator.round.owner import Owner
from services.orchestrator.round.peers import Captioner, Embedder, Peers, Rewriter
from services.orchestrator.round.pipeline import Pipeline
from services.orchestrator.round.runner import Runner
from services.orchestrator.servicer import OrchestratorServicer
from services.orchestrator.store.captions import CaptionCache
from services.orchestrator.store.database import Database
from services.orchestrator.store.embedded import EmbeddedServer
from services.orchestrator.store.rounds import RoundStore
from services.orchestrator.store.sessions import SessionStore
from warmer.v1.orchestrator_pb2_grpc import add_OrchestratorServiceServicer_to_server

NAME = "warmer.v1.OrchestratorService"
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Orchestrator:
    """A servicer and the owner of its running rounds, to be closed before the database."""

    servicer: OrchestratorServicer
    owner: Owner


def assemble(
    database: Database,
    channels: Sequence[grpc.aio.Channel],
    options: OrchestratorOptions,
) -> Orchestrator:
    """The orchestrator over given connections. Several may share one Redis: each is a replica.

    `channels` lead to embedder, captioner and rewriter.
    """
    sessions, rounds = SessionStore(database), RoundStore(database, options.lease_s)
    embedder, captioner, rewriter = channels
    peers = Peers(Embedder(embedder), Captioner(captioner), Rewriter(rewriter))
    cache = CaptionCache(database, options.caption_ttl_s)
    pipeline = Pipeline(sessions, cache, peers, options)
    owner = Owner(rounds, pipeline, options)
    known = strategies.build(options.preference, options.rocchio, options.fused)
    servicer = OrchestratorServicer(
        Hunts(sessions, peers.embedder, options), Asks(known), Runner(sessions, rounds, owner)
    )
    return Orchestrator(servicer, owner)


async def build(settings: Settings) -> Service:
    """The orchestrator as a service. Its Redis is started, or reached, when it warms.

    Raises InvalidArgument (BAD_REDIS_URL) or FailedPrecondition (SOCKET_PATH_TOO_LONG).
    """
    server: EmbeddedServer | None = None
    if settings.redis_url == EMBEDDED:
        server = EmbeddedServer(settings.data_dir / "redis")
        database = Database.from_socket(server.socket)
    else:
        database = Database.from_url(settings.redis_url)
    targets = (settings.embedder_target, settings.captioner_target, settings.rewriter_target)
    channels = [make_service_channel(target, settings) for target in targets]
    orchestrator = assemble(database, channels, options_from(settings))

    async def warm() -> None:
        if server is not None:
            await server.start()
        await database.ping()

    async def close() -> None:
        await orchestrator.owner.close()
        for channel in channels:
            await channel.close(None)
        await database.close()
        if server is not None:
            await server.stop()

    return Service(
        registrations=[lambda host: add_OrchestratorServiceServicer_to_server(orchestrator.servicer, host)],
        names=[NAME],
        warm=warm,
        close=close,
    )
