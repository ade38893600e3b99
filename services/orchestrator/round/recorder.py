"""The owner's pen: numbers events, stores them with what the round has so far, and only then shows them.

Stored before shown, so that whoever re-attaches gets the same events with the same numbers, on any replica.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from services.orchestrator import conversion
from services.orchestrator.round.live import LiveRound
from services.orchestrator.store.rounds import Lease, LeaseLostError, RoundStore
from warmer.errors import WarmerError
from warmer.v1 import common_pb2
from warmer.v1 import orchestrator_pb2 as pb

STAGE_NAMES: dict[int, str] = {
    pb.STAGE_EARLY_SEARCH: "early_search",
    pb.STAGE_CAPTION: "caption",
    pb.STAGE_REWRITE: "rewrite",
    pb.STAGE_SEARCH: "search",
}


class Recorder:
    """Writes one running round under its lease. `partial` is the round so far; stages fill it in.

    Every method that writes raises LeaseLostError when the round belongs to somebody else by now, or the errors of
    `Database`; after either, `failure` is set and nothing more is written.
    """

    def __init__(self, store: RoundStore, lease: Lease, live: LiveRound) -> None:
        self.partial = pb.Round.FromString(lease.partial)
        self.lease = lease
        self._store = store
        self._live = live
        self._sequence = lease.sequence
        self._writing = asyncio.Lock()
        self.failure: WarmerError | LeaseLostError | None = None

    def has_done(self, stage: pb.Stage.ValueType) -> bool:
        """Whether an earlier owner of the round had finished or skipped the stage: its timing is kept."""
        return any(timing.stage == STAGE_NAMES[stage] for timing in self.partial.timings)

    async def emit(self, *events: pb.RefineSessionResponse, hits: Iterable[common_pb2.Hit] = ()) -> None:
        """Stores and shows events; `hits` are the images that these events stream."""
        streamed = {hit.image_id: hit.sha256 for hit in hits}
        # A stage that runs out of time is cancelled, but never in the middle of a write: nobody could tell whether
        # it was done, and the next event would get a number that is taken.
        await asyncio.shield(asyncio.ensure_future(self._append(events, streamed)))

    async def commit(self, version: int, round: pb.Round, *events: pb.RefineSessionResponse) -> bool:
        """Stores the round, shows the last events and the terminal one; False when the session's version changed."""
        return await asyncio.shield(asyncio.ensure_future(self._commit(version, round, events)))

    async def _append(self, events: Sequence[pb.RefineSessionResponse], streamed: Mapping[str, str]) -> None:
        async with self._pen():
            encoded = self._numbered(events)
            partial = self.partial.SerializeToString()
            await self._store.append(self.lease, self._sequence, encoded, partial=partial, streamed=streamed)
            self._sequence += len(events)
            self._live.publish(*events)

    async def _commit(self, version: int, round: pb.Round, events: Sequence[pb.RefineSessionResponse]) -> bool:
        async with self._pen():
            stored = await self._store.commit(
                self.lease,
                version,
                self._sequence,
                round.index,
                round.SerializeToString(),
                streamed={hit.image_id: hit.sha256 for hit in round.hits},
                events=self._numbered(events),
            )
            if stored:
                self._sequence += len(events) + 1
                self._live.publish(*events, pb.RefineSessionResponse(sequence=self._sequence, round=round))
            return stored

    @asynccontextmanager
    async def _pen(self) -> AsyncIterator[None]:
        """One write at a time, and none after one that failed: Redis may have done it all the same."""
        async with self._writing:
            if self.failure is not None:
                raise self.failure
            try:
                yield
            except (WarmerError, LeaseLostError) as error:
                self.failure = error
                raise

    def _numbered(self, events: Iterable[pb.RefineSessionResponse]) -> list[bytes]:
        encoded = []
        for number, event in enumerate(events, start=self._sequence + 1):
            event.sequence = number
            encoded.append(event.SerializeToString())
        return encoded


def stage_started(stage: pb.Stage.ValueType) -> pb.RefineSessionResponse:
    """A stage began. When it comes twice for a stage, the stage began anew and earlier deltas of it are void."""
    return pb.RefineSessionResponse(stage=pb.StageEvent(stage=stage, phase=pb.StageEvent.PHASE_STARTED))


def stage_finished(stage: pb.Stage.ValueType, seconds: float) -> pb.RefineSessionResponse:
    """A stage ended well."""
    event = pb.StageEvent(stage=stage, phase=pb.StageEvent.PHASE_FINISHED, duration=conversion.duration(seconds))
    return pb.RefineSessionResponse(stage=event)


def stage_skipped(stage: pb.Stage.ValueType, seconds: float, detail: str) -> pb.RefineSessionResponse:
    """The round goes on without the stage, or with a part of it."""
    event = pb.StageEvent(
        stage=stage,
        phase=pb.StageEvent.PHASE_SKIPPED,
        duration=conversion.duration(seconds),
        detail=detail,
    )
    return pb.RefineSessionResponse(stage=event)


def timing(stage: pb.Stage.ValueType, seconds: float) -> common_pb2.StageTiming:
    """Time spent in a stage."""
    return common_pb2.StageTiming(stage=STAGE_NAMES[stage], duration=conversion.duration(seconds))
