"""Early hits: what can be found without a language model, streamed while captions and rewrite are made."""

from __future__ import annotations

import grpc

from services.orchestrator import conversion
from services.orchestrator.round.job import RoundJob
from services.orchestrator.round.peers import Embedder
from services.orchestrator.round.stage import Outcome
from warmer.errors import WarmerError
from warmer.v1 import orchestrator_pb2 as pb

_PASSING = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def search_early(job: RoundJob, embedder: Embedder) -> Outcome:
    """One search by the strategy that needs no language model."""
    plan = job.early.plan(job.history, {}, None)
    spec = conversion.search_spec(plan, job.session.collection, job.session.page_size)
    response = await embedder.search(spec)
    event = pb.RefineSessionResponse(early_hits=pb.EarlyHits(hits=response.hits))
    return Outcome(events=[event], hits=response.hits)


def may_skip(error: Exception) -> bool:
    """An embedder that is slow may be faster later; one that fails now would fail the round after long waiting."""
    return not isinstance(error, WarmerError) or error.code in _PASSING
