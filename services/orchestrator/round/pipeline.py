"""The stages of a round in their order: early hits, captions, rewrite, search, store. See DESIGN section 4."""

from __future__ import annotations

import time

from services.common.deadlines import deadline_exceeded
from services.orchestrator import conversion
from services.orchestrator.options import OrchestratorOptions
from services.orchestrator.round.captions import CaptionStage
from services.orchestrator.round.early import may_skip, search_early
from services.orchestrator.round.job import Budget, RoundJob
from services.orchestrator.round.peers import Peers
from services.orchestrator.round.recorder import Recorder, stage_finished, stage_started, timing
from services.orchestrator.round.rewriting import RewriteStage, joined_query, request_for
from services.orchestrator.round.stage import run_stage
from services.orchestrator.store.captions import CaptionCache
from services.orchestrator.store.records import etag
from services.orchestrator.store.rounds import LeaseLostError
from services.orchestrator.store.sessions import SessionStore
from services.orchestrator.strategies import SearchPlan, Term, opening
from warmer.names import collection_id, round_name
from warmer.v1 import common_pb2, embedder_pb2
from warmer.v1 import orchestrator_pb2 as pb


class Pipeline:
    """Makes rounds. It holds no state of a round: that is in the job, the recorder and Redis."""

    def __init__(
        self,
        sessions: SessionStore,
        cache: CaptionCache,
        peers: Peers,
        options: OrchestratorOptions,
    ) -> None:
        self._sessions = sessions
        self._cache = cache
        self._peers = peers
        self._embedder = peers.embedder
        self._options = options

    async def run(self, job: RoundJob, recorder: Recorder, budget: Budget, *, announced: bool) -> None:
        """Runs all stages that are not done yet and stores the round.

        Args:
            announced: the STARTED event of the first stage is stored already: a new round, not one taken over.

        Raises:
            WarmerError: the embedder or Redis failed; nothing was stored as a round.
            LeaseLostError: the round belongs to somebody else by now.
        """
        if job.needs_language_models:
            await self._early(job, recorder, budget, announced)
            await self._captions(job, recorder, budget)
            await self._rewrite(job, recorder, budget)
        await self._search(job, recorder, budget, announced and not job.needs_language_models)

    async def _early(self, job: RoundJob, recorder: Recorder, budget: Budget, announced: bool) -> None:
        if recorder.has_done(pb.STAGE_EARLY_SEARCH):
            return
        await run_stage(
            recorder,
            pb.STAGE_EARLY_SEARCH,
            budget,
            self._options.shares.early_search,
            lambda: search_early(job, self._embedder),
            announced=announced,
            may_skip=may_skip,
        )

    async def _captions(self, job: RoundJob, recorder: Recorder, budget: Budget) -> None:
        if recorder.has_done(pb.STAGE_CAPTION) or not job.history.turn.has_marks:
            return
        stage = CaptionStage(job, recorder, self._peers, self._cache, self._options)
        await run_stage(recorder, pb.STAGE_CAPTION, budget, self._options.shares.caption, stage.run)

    async def _rewrite(self, job: RoundJob, recorder: Recorder, budget: Budget) -> None:
        captions = conversion.caption_texts(recorder.partial.captions)
        request = request_for(job.history, captions)
        if recorder.has_done(pb.STAGE_REWRITE) or request is None:
            return
        joined, least = joined_query(job.history, captions), self._options.min_similarity
        stage = RewriteStage(request, joined, recorder, self._peers, least)
        share = self._options.shares.rewrite
        await run_stage(recorder, pb.STAGE_REWRITE, budget, share, stage.run, instead=stage.without)

    async def _search(self, job: RoundJob, recorder: Recorder, budget: Budget, announced: bool) -> None:
        """The final search and the commit; an error here is an error of the round."""
        if not announced:
            await recorder.emit(stage_started(pb.STAGE_SEARCH))
        begin = time.perf_counter()
        try:
            async with budget.limit(1.0, at_least=self._options.least_search_s):
                plan = await self._plan(job, recorder)
                spec = conversion.search_spec(plan, job.session.collection, job.session.page_size)
                response = await self._embedder.search(spec)
        except TimeoutError as error:
            raise deadline_exceeded("the embedder did not answer in time") from error
        seconds = time.perf_counter() - begin
        round = _assemble(job, recorder.partial, plan, spec, response)
        round.timings.append(timing(pb.STAGE_SEARCH, seconds))
        await self._commit(job, recorder, round, stage_finished(pb.STAGE_SEARCH, seconds))

    async def _plan(self, job: RoundJob, recorder: Recorder) -> SearchPlan:
        if job.index == 0:
            return opening(job.text, await self._examples(job))
        captions = conversion.caption_texts(recorder.partial.captions)
        rewrite: str | None = None
        if job.needs_language_models:
            # Without a rewrite (nothing to merge) the join is the query itself, or the first words of an image hunt.
            rewrite = recorder.partial.rewrite.text or joined_query(job.history, captions)
        return job.strategy.plan(job.history, captions, rewrite)

    async def _examples(self, job: RoundJob) -> list[Term]:
        """The example image as its vector, made once: the hunt must outlive a file, and an image that is removed."""
        content = job.example_bytes
        if job.example_id:
            content = await self._embedder.content(collection_id(job.session.collection), job.example_id, max_edge=0)
        return [Term(vector=await self._embedder.embed_image(content))] if content else []

    async def _commit(self, job: RoundJob, recorder: Recorder, round: pb.Round, last: pb.RefineSessionResponse) -> None:
        """Stores the round; again with the right etag when the session was renamed or the like meanwhile."""
        session = job.session
        round.create_time.CopyFrom(conversion.now())
        while True:
            round.etag = etag(session.incarnation, session.version + 1)
            if await recorder.commit(session.version, round, last):
                return
            current = (await self._sessions.load(session.ref)).session
            if current is None:
                raise LeaseLostError
            session = current


def _assemble(
    job: RoundJob,
    partial: pb.Round,
    plan: SearchPlan,
    spec: common_pb2.SearchSpec,
    response: embedder_pb2.SearchResponse,
) -> pb.Round:
    turn = job.history.turn
    round = pb.Round(
        name=round_name(job.session.ref.id, job.index),
        index=job.index,
        query=plan.query,
        displayed_image_ids=turn.displayed,
        captions=partial.captions,
        search=spec,
        hits=response.hits,
        timings=partial.timings,
        degraded_stages=partial.degraded_stages,
        truncations=response.truncations,
        strategy=conversion.strategy_value(job.strategy.name),
    )
    if job.index > 0:
        round.feedback.CopyFrom(conversion.feedback_message(turn))
    if partial.HasField("rewrite"):
        round.rewrite.CopyFrom(partial.rewrite)
    return round
