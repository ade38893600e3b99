"""Following a round through Redis: for a repeated request on whatever replica, and when the owner has changed."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from google.rpc.status_pb2 import Status

from services.orchestrator import problems
from services.orchestrator.store.keys import SessionRef
from services.orchestrator.store.rounds import RoundStore, StoredEvent
from services.orchestrator.store.sessions import SessionStore
from warmer.errors import from_status
from warmer.v1 import orchestrator_pb2 as pb

_LONGEST_WAIT_S = 1.0


class OwnerSilentError(Exception):
    """The lease of the round that is followed has ended: whoever has the request may take the round over."""


class Follower:
    """Reads a round's events from Redis."""

    def __init__(self, sessions: SessionStore, rounds: RoundStore) -> None:
        self._sessions = sessions
        self._rounds = rounds
        self._wait_s = min(_LONGEST_WAIT_S, rounds.lease_s / 3)

    async def stored(self, ref: SessionRef, attempt: int, after: int) -> list[pb.RefineSessionResponse]:
        """The events that are there now, after event number `after`. Raises the error that ended the round."""
        return [await self._message(ref, event) for event in await self._rounds.events(ref, attempt, after)]

    async def follow(
        self, ref: SessionRef, request_id: str, attempt: int, after: int
    ) -> AsyncGenerator[pb.RefineSessionResponse, None]:
        """All events after number `after`, up to the terminal round.

        Raises OwnerSilentError when the lease ends, else the error that ended the round.
        """
        while True:
            events = await self._rounds.wait(ref, attempt, after, self._wait_s)
            for event in events:
                message = await self._message(ref, event)
                yield message
                if message.WhichOneof("event") == "round":
                    return
                after = event.sequence
            if not events:
                await self._check(ref, request_id, attempt)

    async def _check(self, ref: SessionRef, request_id: str, attempt: int) -> None:
        """Returns while there is something to wait for."""
        look = await self._sessions.load(ref, request_id=request_id)
        if look.session is None:
            raise problems.session_not_found(ref)
        if look.request is None or look.request.attempt != attempt:
            raise problems.round_abandoned(ref)
        if look.request.index is None and (look.run is None or look.run.lease_left_ms <= 0):
            raise OwnerSilentError

    async def _message(self, ref: SessionRef, event: StoredEvent) -> pb.RefineSessionResponse:
        if event.kind == "event":
            return pb.RefineSessionResponse.FromString(event.data)
        if event.kind == "error":
            error = from_status(Status.FromString(event.data))
            raise error if error is not None else problems.round_abandoned(ref)
        index = int(event.data)
        rounds = await self._sessions.rounds(ref, index, 1)
        if not rounds:
            raise problems.session_not_found(ref)
        return pb.RefineSessionResponse(sequence=event.sequence, round=pb.Round.FromString(rounds[0]))
