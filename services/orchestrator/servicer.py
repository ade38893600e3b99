"""The gRPC face of the orchestrator: each method reads its request, has the work done, and writes the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from services.orchestrator.asks import Asks
from services.orchestrator.conversion import session_message
from services.orchestrator.hunts import Hunts, ref_of
from services.orchestrator.round.runner import Runner
from services.orchestrator.store.keys import DEFAULT_TENANT
from warmer.errors import Internal
from warmer.v1 import orchestrator_pb2 as pb
from warmer.v1.orchestrator_pb2_grpc import OrchestratorServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class OrchestratorServicer(OrchestratorServiceServicer):
    """See protos/warmer/v1/orchestrator.proto. Methods raise WarmerError; the server's interceptor makes statuses."""

    def __init__(self, hunts: Hunts, asks: Asks, runner: Runner, tenant: str = DEFAULT_TENANT) -> None:
        self._hunts = hunts
        self._asks = asks
        self._runner = runner
        self._tenant = tenant

    async def CreateSession(self, request: pb.CreateSessionRequest, _context: Context) -> pb.Session:
        """Starts a session, empty or from a round of another."""
        return session_message(await self._hunts.create(self._tenant, request))

    async def GetSession(self, request: pb.GetSessionRequest, _context: Context) -> pb.Session:
        """One session."""
        return session_message(await self._hunts.get(ref_of(self._tenant, request.name)))

    async def ListSessions(self, request: pb.ListSessionsRequest, _context: Context) -> pb.ListSessionsResponse:
        """A page of sessions, newest first."""
        records, token = await self._hunts.page(self._tenant, request)
        return pb.ListSessionsResponse(sessions=[session_message(record) for record in records], next_page_token=token)

    async def UpdateSession(self, request: pb.UpdateSessionRequest, _context: Context) -> pb.Session:
        """Changes strategy, page size, time to live or display name."""
        ref = ref_of(self._tenant, request.session.name)
        return session_message(await self._hunts.update(ref, request))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, _context: Context) -> Empty:
        """Deletes a session with its rounds."""
        await self._hunts.delete(ref_of(self._tenant, request.name), request.etag)
        return Empty()

    async def ListRounds(self, request: pb.ListRoundsRequest, _context: Context) -> pb.ListRoundsResponse:
        """A page of rounds, oldest first."""
        rounds, token = await self._hunts.rounds(ref_of(self._tenant, request.session), request)
        return pb.ListRoundsResponse(rounds=rounds, next_page_token=token)

    async def SearchSession(self, request: pb.SearchSessionRequest, _context: Context) -> pb.Round:
        """Round 0."""
        async with aclosing(self._runner.events(self._asks.search(self._tenant, request))) as events:
            async for event in events:
                if event.WhichOneof("event") == "round":
                    return event.round
        raise Internal("the round ended without a result", reason="INTERNAL")

    async def RefineSession(
        self, request: pb.RefineSessionRequest, _context: Context
    ) -> AsyncIterator[pb.RefineSessionResponse]:
        """The next round, event by event. The round goes on when the caller goes away."""
        async with aclosing(self._runner.events(self._asks.refine(self._tenant, request))) as events:
            async for event in events:
                yield event

    async def FinishSession(self, request: pb.FinishSessionRequest, _context: Context) -> pb.Session:
        """Ends the hunt."""
        return session_message(await self._hunts.finish(ref_of(self._tenant, request.session), request))
