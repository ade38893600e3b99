"""Turns the two requests that make rounds into asks: checked content, and how a look at the session becomes a job."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from services.orchestrator import conversion, problems, validation
from services.orchestrator.round.job import RoundJob
from services.orchestrator.round.runner import Ask
from services.orchestrator.store.keys import SessionRef
from services.orchestrator.store.records import SessionRecord, Snapshot
from services.orchestrator.strategies import History, Strategy, Turn
from warmer.names import check_image_id, session_id
from warmer.v1 import orchestrator_pb2 as pb


class Asks:
    """Makes asks for the strategies that this server has. Raises InvalidArgument."""

    def __init__(self, strategies: Mapping[str, Strategy]) -> None:
        self._strategies = strategies
        self._early = strategies["preference"]  # hits that need no language model

    def search(self, tenant: str, request: pb.SearchSessionRequest) -> Ask:
        """Round 0."""
        ref = SessionRef(tenant, session_id(request.session))
        text = validation.query_text(request)
        example_id = check_image_id(request.image_id) if request.image_id else ""

        async def make(look: Snapshot) -> RoundJob:
            session = _session(ref, look)
            if session.round_count > 0:
                raise problems.round_exists(ref)
            return RoundJob(
                session=session,
                strategy=self._strategies[session.strategy],
                early=self._early,
                history=History(rounds=(), turn=Turn()),
                text=text,
                example_id=example_id,
                example_bytes=request.image,
            )

        return Ask(ref, _request_id(request), validation.digest(request), request.etag, (), make)

    def refine(self, tenant: str, request: pb.RefineSessionRequest) -> Ask:
        """Any later round."""
        ref = SessionRef(tenant, session_id(request.session))
        said = validation.feedback(request)

        async def make(look: Snapshot) -> RoundJob:
            session = _session(ref, look)
            if not look.rounds:
                raise problems.no_round_yet(ref)
            unseen = [id for id in said.named if look.streamed[id] is None]
            if unseen:
                raise problems.not_streamed(ref, unseen, _field_of(said, unseen[0]))
            rounds = [pb.Round.FromString(data) for data in look.rounds]
            last_page = tuple(hit.image_id for hit in rounds[-1].hits)
            return RoundJob(
                session=session,
                strategy=self._strategies[session.strategy],
                early=self._early,
                history=conversion.history(rounds, said.turn(last_page)),
                sha256s={id: sha256 for id, sha256 in look.streamed.items() if sha256 is not None},
            )

        return Ask(ref, _request_id(request), validation.digest(request), request.etag, said.named, make)


def _request_id(request: pb.SearchSessionRequest | pb.RefineSessionRequest) -> str:
    """The caller's request id, or one of our own: then the round cannot be asked for again."""
    return validation.request_id(request.request_id) or f"server-{secrets.token_hex(12)}"


def _session(ref: SessionRef, look: Snapshot) -> SessionRecord:
    if look.session is None:
        raise problems.session_not_found(ref)
    return look.session


def _field_of(said: validation.SaidFeedback, id: str) -> str:
    if id in said.relevant:
        return "feedback.relevant_image_ids"
    return "feedback.irrelevant_image_ids" if id in said.irrelevant else "displayed_image_ids"
