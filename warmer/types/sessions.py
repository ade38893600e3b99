"""Sessions, rounds and feedback."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from warmer.errors import WarmerError, from_status
from warmer.names import collection_id, round_parts, session_id
from warmer.types._convert import enum_name, moment, seconds
from warmer.types.searches import Hit, Search, StageTiming, Truncation
from warmer.v1 import captioner_pb2, orchestrator_pb2, rewriter_pb2

Strategy = Literal["rewrite", "rocchio", "preference", "fused"]
"""How feedback becomes the next search."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One person's hunt in one collection, as the server has it.

    Attributes:
        id: of the session.
        collection: id of the collection.
        strategy: ``rewrite`` or ``preference``.
        page_size: number of hits of a round.
        display_name: free text for people.
        state: ``active`` or ``finished``.
        round_count: number of rounds.
        found_image_id: the image that was found; empty while the hunt goes on or when it ended without one.
        parent_round: (session id, round) that this session started from, else None.
        create_time, update_time, expire_time: UTC.
        ttl_s: seconds that the session is kept after its last change.
        etag: changes with the session.
    """

    id: str
    collection: str
    strategy: str
    page_size: int
    display_name: str
    state: str
    round_count: int
    found_image_id: str
    parent_round: tuple[str, int] | None
    create_time: dt.datetime | None
    update_time: dt.datetime | None
    expire_time: dt.datetime | None
    ttl_s: float
    etag: str

    @classmethod
    def from_proto(cls, message: orchestrator_pb2.Session) -> SessionInfo:
        """From ``warmer.v1.Session``."""
        return cls(
            id=session_id(message.name),
            collection=collection_id(message.collection),
            strategy=enum_name(orchestrator_pb2.Strategy, message.strategy, "STRATEGY_"),
            page_size=message.page_size,
            display_name=message.display_name,
            state=enum_name(orchestrator_pb2.Session.State, message.state, "STATE_"),
            round_count=message.round_count,
            found_image_id=message.found_image_id,
            parent_round=round_parts(message.parent_round) if message.parent_round else None,
            create_time=moment(message.create_time),
            update_time=moment(message.update_time),
            expire_time=moment(message.expire_time),
            ttl_s=seconds(message.ttl),
            etag=message.etag,
        )


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the person says about the images that they saw.

    Attributes:
        relevant: ids of images that are close.
        irrelevant: ids of images that are not what is meant.
        comment: what differs, or what matters, in words.
    """

    relevant: tuple[str, ...] = ()
    irrelevant: tuple[str, ...] = ()
    comment: str = ""

    @classmethod
    def from_proto(cls, message: orchestrator_pb2.Feedback) -> Feedback:
        """From ``warmer.v1.Feedback``."""
        return cls(tuple(message.relevant_image_ids), tuple(message.irrelevant_image_ids), message.comment)


@dataclass(frozen=True, slots=True)
class Caption:
    """What the captioner says of one image.

    Attributes:
        image_id: the id.
        text: the sentence; empty when the image failed.
        model: identity of the model.
        prompt_version: version of the prompt.
        tokens: number of tokens written.
        error: why there is no caption, else None.
    """

    image_id: str
    text: str
    model: str
    prompt_version: str
    tokens: int
    error: WarmerError | None

    @classmethod
    def from_proto(cls, message: captioner_pb2.Caption) -> Caption:
        """From ``warmer.v1.Caption``."""
        error = from_status(message.status)
        return cls(message.key, message.text, message.model, message.prompt_version, message.tokens, error)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The query that the rewriter made of the last query, captions and comment.

    Attributes:
        text: the query to search with.
        model: identity of the model.
        prompt_version: version of the prompt.
        fell_back: whether the text is the plain join instead of the model's words.
        fallback_reason: why, e.g. ``configured`` or ``too_long``; empty when the model's words were used.
        rejected_text: what the model wrote, when the guard rejected it.
        tokens: number of tokens written.
    """

    text: str
    model: str
    prompt_version: str
    fell_back: bool
    fallback_reason: str
    rejected_text: str
    tokens: int

    @classmethod
    def from_proto(cls, message: rewriter_pb2.Rewrite) -> Rewrite:
        """From ``warmer.v1.Rewrite``."""
        return cls(
            text=message.text,
            model=message.model,
            prompt_version=message.prompt_version,
            fell_back=message.fell_back,
            fallback_reason=enum_name(rewriter_pb2.Rewrite.FallbackReason, message.fallback_reason, "FALLBACK_REASON_"),
            rejected_text=message.rejected_text,
            tokens=message.tokens,
        )


@dataclass(frozen=True, slots=True)
class Round:
    """One retrieval inside a session.

    Attributes:
        session: id of the session.
        index: number of the round; 0 has no feedback behind it.
        query: the query text in force.
        feedback: behind the round; None in round 0.
        displayed_image_ids: images that the person had seen when this round began, since the round before.
        captions: of the marked images.
        rewrite: None where none was needed.
        search: that the round ran.
        hits: best first.
        timings: of the stages.
        degraded_stages: stages that failed or came too late; the round answered without them.
        truncations: text terms that were longer than the encoder reads.
        strategy: that made the search.
        create_time: when it was stored, UTC.
        etag: of the session after this round.
    """

    session: str
    index: int
    query: str
    feedback: Feedback | None
    displayed_image_ids: tuple[str, ...]
    captions: tuple[Caption, ...]
    rewrite: Rewrite | None
    search: Search | None
    hits: tuple[Hit, ...]
    timings: tuple[StageTiming, ...]
    degraded_stages: tuple[str, ...]
    truncations: tuple[Truncation, ...]
    strategy: str
    create_time: dt.datetime | None
    etag: str

    @classmethod
    def from_proto(cls, message: orchestrator_pb2.Round) -> Round:
        """From ``warmer.v1.Round``."""
        session, index = round_parts(message.name)
        return cls(
            session=session,
            index=index,
            query=message.query,
            feedback=Feedback.from_proto(message.feedback) if message.HasField("feedback") else None,
            displayed_image_ids=tuple(message.displayed_image_ids),
            captions=tuple(map(Caption.from_proto, message.captions)),
            rewrite=Rewrite.from_proto(message.rewrite) if message.HasField("rewrite") else None,
            search=Search.from_proto(message.search) if message.HasField("search") else None,
            hits=tuple(map(Hit.from_proto, message.hits)),
            timings=tuple(map(StageTiming.from_proto, message.timings)),
            degraded_stages=tuple(stage_name(stage) for stage in message.degraded_stages),
            truncations=tuple(map(Truncation.from_proto, message.truncations)),
            strategy=enum_name(orchestrator_pb2.Strategy, message.strategy, "STRATEGY_"),
            create_time=moment(message.create_time),
            etag=message.etag,
        )


def stage_name(number: int) -> str:
    """The name of a ``warmer.v1.Stage``."""
    return enum_name(orchestrator_pb2.Stage, number, "STAGE_")
