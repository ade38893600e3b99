"""Between protobuf messages and what the rest of the orchestrator works with: records, turns and plans."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.orchestrator.store.records import SessionRecord
from services.orchestrator.strategies import History, PastRound, SearchPlan, Term, Turn
from warmer.errors import InvalidArgument
from warmer.names import round_name, session_name
from warmer.v1 import captioner_pb2, common_pb2
from warmer.v1 import orchestrator_pb2 as pb

_STRATEGIES: dict[str, pb.Strategy.ValueType] = {
    "rewrite": pb.STRATEGY_REWRITE,
    "rocchio": pb.STRATEGY_ROCCHIO,
    "preference": pb.STRATEGY_PREFERENCE,
    "fused": pb.STRATEGY_FUSED,
}
_SIMILARITIES = {
    "vectors": common_pb2.ChoiceModel.SIMILARITY_VECTORS,
    "learned": common_pb2.ChoiceModel.SIMILARITY_LEARNED,
}
_STRATEGY_NAMES: dict[int, str] = {value: name for name, value in _STRATEGIES.items()}


def strategy_name(strategy: int, default: str) -> str:
    """The name of a strategy; the default for an unset one. Raises InvalidArgument (BAD_STRATEGY)."""
    if strategy == pb.STRATEGY_UNSPECIFIED:
        return default
    if strategy not in _STRATEGY_NAMES:
        raise InvalidArgument(
            f"this server knows no strategy number {strategy}",
            reason="BAD_STRATEGY",
            field="session.strategy",
            hint=f"Use one of: {', '.join(_STRATEGIES)}.",
        )
    return _STRATEGY_NAMES[strategy]


def session_message(record: SessionRecord) -> pb.Session:
    """The session as callers see it."""
    return pb.Session(
        name=session_name(record.ref.id),
        collection=record.collection,
        strategy=_STRATEGIES[record.strategy],
        page_size=record.page_size,
        display_name=record.display_name,
        state=pb.Session.STATE_FINISHED if record.finished else pb.Session.STATE_ACTIVE,
        round_count=record.round_count,
        found_image_id=record.found_image_id,
        parent_round=record.parent_round,
        create_time=_timestamp(record.created_ms),
        update_time=_timestamp(record.updated_ms),
        expire_time=_timestamp(record.expires_ms),
        ttl=duration(record.ttl_ms / 1000),
        etag=record.etag,
    )


def history(rounds: Sequence[pb.Round], turn: Turn) -> History:
    """What was said in a session, from its stored rounds and this turn."""
    return History(
        rounds=tuple(PastRound(query=round.query, turn=_turn(round)) for round in rounds),
        turn=turn,
        examples=_examples(rounds[0].search) if rounds else (),
    )


def _turn(round: pb.Round) -> Turn:
    return Turn(
        relevant=tuple(round.feedback.relevant_image_ids),
        irrelevant=tuple(round.feedback.irrelevant_image_ids),
        comment=round.feedback.comment,
        displayed=tuple(round.displayed_image_ids),
    )


def _examples(search: common_pb2.SearchSpec) -> tuple[Term, ...]:
    """The example images that the hunt began with: the terms of round 0 that are no text."""
    return tuple(
        Term(vector=term.vector, weight=term.weight or 1.0)
        for term in search.terms
        if term.WhichOneof("content") == "vector"
    )


def search_spec(plan: SearchPlan, collection: str, top_k: int) -> common_pb2.SearchSpec:
    """The search that a plan asks for."""
    return common_pb2.SearchSpec(
        collection=collection,
        terms=[_term(term) for term in plan.terms],
        preferences=[
            common_pb2.Preference(
                relevant_image_ids=evidence.relevant,
                irrelevant_image_ids=evidence.irrelevant,
                unmarked_image_ids=evidence.unmarked,
                temperature=evidence.temperature,
                lapse=evidence.lapse,
            )
            for evidence in plan.preferences
        ],
        choice_models=[
            common_pb2.ChoiceModel(
                similarity=_SIMILARITIES[choice.similarity],
                temperature=choice.temperature,
                lapse=choice.lapse,
                weight=choice.weight,
            )
            for choice in plan.choices
        ],
        prior_temperature=plan.prior_temperature,
        excluded_image_ids=plan.excluded,
        top_k=top_k,
    )


def _term(term: Term) -> common_pb2.QueryTerm:
    if term.text:
        return common_pb2.QueryTerm(text=term.text, weight=term.weight)
    if term.image_id:
        return common_pb2.QueryTerm(image_id=term.image_id, weight=term.weight, skip_missing=True)
    return common_pb2.QueryTerm(vector=term.vector, weight=term.weight)


def feedback_message(turn: Turn) -> pb.Feedback:
    """The feedback of a turn."""
    return pb.Feedback(relevant_image_ids=turn.relevant, irrelevant_image_ids=turn.irrelevant, comment=turn.comment)


def caption_texts(captions: Iterable[captioner_pb2.Caption]) -> dict[str, str]:
    """Text by image id, of the captions that have one."""
    return {caption.key: caption.text for caption in captions if caption.text}


def strategy_value(name: str) -> pb.Strategy.ValueType:
    """The enum value of a strategy."""
    return _STRATEGIES[name]


def branched_rounds(rounds: Sequence[pb.Round], id: str, etag: str) -> list[pb.Round]:
    """Copies of rounds for another session: renamed, and with that session's first etag."""
    copies = []
    for round in rounds:
        copy = pb.Round()
        copy.CopyFrom(round)
        copy.name = round_name(id, round.index)
        copy.etag = etag
        copies.append(copy)
    return copies


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf duration, to the nanosecond."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def now() -> Timestamp:
    """This machine's time."""
    return _timestamp(time.time_ns() // 1_000_000)


def _timestamp(milliseconds: int) -> Timestamp:
    return Timestamp(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
