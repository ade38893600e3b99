"""One optional stage of a round: announced, timed, limited, and skipped with a reason when it fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from services.orchestrator.round.job import Budget
from services.orchestrator.round.recorder import Recorder, stage_finished, stage_skipped, stage_started, timing
from warmer.errors import WarmerError
from warmer.v1 import common_pb2
from warmer.v1 import orchestrator_pb2 as pb

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a stage gives at its end: events, the images that they stream, and what is missing ('' for nothing)."""

    events: Sequence[pb.RefineSessionResponse] = ()
    hits: Sequence[common_pb2.Hit] = field(default_factory=tuple)
    missing: str = ""


def _always(_: Exception) -> bool:
    return True


async def run_stage(
    recorder: Recorder,
    stage: pb.Stage.ValueType,
    budget: Budget,
    share: float,
    work: Callable[[], Awaitable[Outcome]],
    *,
    announced: bool = False,
    may_skip: Callable[[Exception], bool] = _always,
    instead: Callable[[], Sequence[pb.RefineSessionResponse]] = tuple,
) -> None:
    """Runs a stage and stores how it went: its timing, its last events, and its name among the degraded if need be.

    Args:
        announced: the STARTED event is stored already.
        may_skip: whether the round goes on after this error; else it is raised.
        instead: gives the events of a stage that failed.

    Raises:
        LeaseLostError or an error of Redis when nothing can be written.
    """
    if not announced:
        await recorder.emit(stage_started(stage))
    begin = time.perf_counter()
    try:
        async with budget.limit(share):
            outcome = await work()
    except (WarmerError, TimeoutError) as error:
        if recorder.failure is not None or not may_skip(error):
            raise
        outcome = Outcome(events=instead(), missing=_why(error))
    seconds = time.perf_counter() - begin
    recorder.partial.timings.append(timing(stage, seconds))
    last = stage_finished(stage, seconds)
    if outcome.missing:
        _log.warning("stage_skipped", stage=pb.Stage.Name(stage), detail=outcome.missing)
        recorder.partial.degraded_stages.append(stage)
        last = stage_skipped(stage, seconds, outcome.missing)
    await recorder.emit(*outcome.events, last, hits=outcome.hits)


def _why(error: Exception) -> str:
    if isinstance(error, WarmerError):
        service = error.metadata.get("service")
        return f"{service}: {error.message}" if service else error.message
    return "ran out of its share of the deadline"
