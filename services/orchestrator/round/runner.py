"""From a request to the events of its round: starts it, replays it, follows it, or takes it over."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from services.orchestrator import problems
from services.orchestrator.round.follow import Follower, OwnerSilentError
from services.orchestrator.round.job import RoundJob
from services.orchestrator.round.live import LiveRound
from services.orchestrator.round.owner import Owner
from services.orchestrator.round.recorder import stage_started
from services.orchestrator.store.keys import SessionRef
from services.orchestrator.store.records import Snapshot
from services.orchestrator.store.rounds import Busy, Lease, LeaseLostError, RoundStore
from services.orchestrator.store.sessions import SessionStore
from warmer.errors import to_status
from warmer.v1 import orchestrator_pb2 as pb

MakeJob = Callable[[Snapshot], Awaitable[RoundJob]]
_MOST_BUSY_HINT_S = 1.0


@dataclass(frozen=True)
class Ask:
    """A request for a round.

    Attributes:
        ref: of which session.
        request_id: under which id; never empty.
        digest: of its content.
        etag: the session's etag that the caller knows, '' for any.
        image_ids: images that it names.
        make: turns a look at the session into a job; raises the errors of a request that does not fit the session.
    """

    ref: SessionRef
    request_id: str
    digest: str
    etag: str
    image_ids: tuple[str, ...]
    make: MakeJob


class Runner:
    """Gives the events of the round that a request asks for, each once, whoever runs it."""

    def __init__(self, sessions: SessionStore, rounds: RoundStore, owner: Owner) -> None:
        self._sessions = sessions
        self._rounds = rounds
        self._owner = owner
        self._follower = Follower(sessions, rounds)

    async def events(self, ask: Ask) -> AsyncGenerator[pb.RefineSessionResponse, None]:
        """All events of the round, from the first to the terminal one. Raises WarmerError."""
        attempt, last = 0, 0
        while True:
            found = await self._attach(ask, attempt)
            attempt = found.lease.attempt if isinstance(found, _Live) else found
            if isinstance(found, _Live):
                source = self._live(found, last)
            else:
                source = self._follower.follow(ask.ref, ask.request_id, attempt, last)
            try:
                async for event in source:
                    last = event.sequence
                    yield event
                return
            except (OwnerSilentError, LeaseLostError):
                continue  # somebody took the round over, or may now

    async def _live(self, found: _Live, last: int) -> AsyncGenerator[pb.RefineSessionResponse, None]:
        """What earlier owners stored, then what this process adds."""
        if not found.is_new:
            for event in await self._follower.stored(found.lease.ref, found.lease.attempt, last):
                if event.sequence <= found.lease.sequence:
                    yield event
        async for event in found.live.follow():
            yield event

    async def _attach(self, ask: Ask, known: int) -> _Live | int:
        """Starts the round here, or finds the attempt that has it; `known` is one that was followed before, or 0."""
        while True:
            look = await self._sessions.load(ask.ref, request_id=ask.request_id, image_ids=ask.image_ids, rounds=True)
            if look.session is None:
                raise problems.session_not_found(ask.ref)
            if known and (look.request is None or look.request.attempt != known):
                return known  # it was ended meanwhile; its events say why, and those of another would not fit
            if look.request is None:
                started = await self._begin(ask, look)
                if started is not None:
                    return started
                continue
            if look.request.digest != ask.digest:
                raise problems.conflicting_request_id(ask.request_id)
            is_silent = look.run is None or look.run.lease_left_ms <= 0
            if look.request.index is not None or not is_silent:
                return look.request.attempt
            taken = await self._take_over(ask, look)
            if taken is not None:
                return taken

    async def _begin(self, ask: Ask, look: Snapshot) -> _Live | None:
        """Starts a round; None when the session changed since it was read."""
        if look.session is not None and look.session.finished:
            raise problems.session_finished(ask.ref)
        if look.session is not None and ask.etag not in ("", look.session.etag):
            raise problems.stale_etag(ask.ref)
        if look.run is not None and look.run.lease_left_ms > 0:
            raise problems.round_in_progress(ask.ref, self._retry_after(look.run.lease_left_ms / 1000))
        job = await ask.make(look)
        first = stage_started(job.first_stage)
        first.sequence = 1
        given_up = to_status(problems.round_abandoned(ask.ref)).SerializeToString()
        begun = await self._rounds.begin(
            job.session,
            ask.request_id,
            digest=ask.digest,
            owner=_owner_token(),
            replaces_with=given_up,
            events=[first.SerializeToString()],
        )
        if isinstance(begun, Busy):
            raise problems.round_in_progress(ask.ref, self._retry_after(begun.left_s))
        return None if begun is None else _Live(begun, self._owner.start(job, begun, first=first), is_new=True)

    async def _take_over(self, ask: Ask, look: Snapshot) -> _Live | None:
        """Goes on with a round whose owner is silent; None when somebody else was faster."""
        job = await ask.make(look)
        claimed = await self._rounds.claim(ask.ref, ask.request_id, _owner_token())
        return _Live(claimed, self._owner.start(job, claimed), is_new=False) if isinstance(claimed, Lease) else None

    def _retry_after(self, left_s: float) -> float:
        return min(_MOST_BUSY_HINT_S, max(0.05, left_s))


@dataclass(frozen=True)
class _Live:
    """A round that runs here. `is_new` when `live` has all its events, from the first."""

    lease: Lease
    live: LiveRound
    is_new: bool


def _owner_token() -> str:
    return secrets.token_hex(8)
