"""The owner of running rounds in this process: each is a task of its own, so that it ends well whoever goes away."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from services.common.deadlines import remaining_s, set_deadline
from services.common.failures import to_warmer_error
from services.orchestrator.options import OrchestratorOptions
from services.orchestrator.round.job import Budget, RoundJob
from services.orchestrator.round.live import LiveRound
from services.orchestrator.round.pipeline import Pipeline
from services.orchestrator.round.recorder import Recorder
from services.orchestrator.store.rounds import Lease, LeaseLostError, RoundStore
from warmer.errors import Unavailable, WarmerError, to_status
from warmer.v1 import orchestrator_pb2 as pb

_log = structlog.get_logger(__name__)
# Kept back from the caller's deadline, so that the answer still reaches it.
_MARGIN_S = 0.1


class Owner:
    """Runs rounds under their leases and renews the leases."""

    def __init__(self, rounds: RoundStore, pipeline: Pipeline, options: OrchestratorOptions) -> None:
        self._rounds = rounds
        self._pipeline = pipeline
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: RoundJob, lease: Lease, *, first: pb.RefineSessionResponse | None = None) -> LiveRound:
        """Starts a round that this process holds the lease of; it goes on when the caller goes away.

        `first` is the STARTED event of the first stage, which a new round has stored already; None when the round was
        taken over.
        """
        live = LiveRound()
        if first is not None:
            live.publish(first)
        budget = Budget(self._seconds())
        task = asyncio.create_task(
            self._own(job, lease, live, budget, first is not None), name=f"round {job.session.ref.id}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return live

    async def close(self) -> None:
        """Lets running rounds end, for `drain_s`; then gives those that still run to other replicas."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._options.drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _seconds(self) -> float:
        left = remaining_s()
        most = self._options.round_timeout_s
        return most if left is None else min(most, max(0.0, left - _MARGIN_S))

    async def _own(self, job: RoundJob, lease: Lease, live: LiveRound, budget: Budget, announced: bool) -> None:
        set_deadline(None)  # the round outlives the call; its own budget limits every step
        try:
            await self._run(job, lease, live, budget, announced)
        except asyncio.CancelledError:
            with contextlib.suppress(WarmerError):  # without Redis the lease ends by itself
                await self._rounds.release(lease)
            live.end(_shutting_down())
            raise
        except LeaseLostError as error:
            _log.warning("round_lost", session=job.session.ref.id, round=job.index)
            live.end(error)
        except Exception as error:
            live.end(await self._fail(lease, to_warmer_error(error)))
        else:
            live.end()

    async def _run(self, job: RoundJob, lease: Lease, live: LiveRound, budget: Budget, announced: bool) -> None:
        """The pipeline, for as long as the lease can be renewed."""
        recorder = Recorder(self._rounds, lease, live)
        work = asyncio.create_task(self._pipeline.run(job, recorder, budget, announced=announced))
        heartbeat = asyncio.create_task(self._renew(lease))
        try:
            await asyncio.wait({work, heartbeat}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                heartbeat.result()  # raises why it ended
            await work
        finally:
            work.cancel()
            heartbeat.cancel()
            await asyncio.gather(work, heartbeat, return_exceptions=True)

    async def _renew(self, lease: Lease) -> None:
        """Renews until it cannot; an unreachable Redis is no reason to stop the work before the lease is lost."""
        while True:
            await asyncio.sleep(self._rounds.lease_s / 3)
            try:
                await self._rounds.renew(lease)
            except WarmerError as error:
                _log.warning("lease_not_renewed", reason=error.reason)

    async def _fail(self, lease: Lease, error: WarmerError) -> WarmerError | LeaseLostError:
        """Stores that the round ended without a result; returns what followers here get to see."""
        _log.warning("round_failed", session=lease.ref.id, reason=error.reason, error=error.message)
        try:
            await self._rounds.fail(lease, to_status(error).SerializeToString())
        except LeaseLostError as lost:
            return lost
        except WarmerError as unwritten:
            _log.warning("round_failure_not_stored", reason=unwritten.reason)
        return error


def _shutting_down() -> Unavailable:
    return Unavailable(
        "the orchestrator is shutting down",
        reason="SHUTTING_DOWN",
        hint="Repeat the request with the same request_id: another replica finishes the round.",
        retry_after_s=1.0,
    )
