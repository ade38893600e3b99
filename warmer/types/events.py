"""The events of a running round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from warmer.types._convert import enum_name, seconds
from warmer.types.searches import Hit
from warmer.types.sessions import Caption, Rewrite, Round, stage_name
from warmer.v1 import orchestrator_pb2


@dataclass(frozen=True, slots=True)
class StageEvent:
    """A stage began, ended or was skipped.

    Attributes:
        sequence: position of the event in the round, from 1.
        stage: ``early_search``, ``caption``, ``rewrite`` or ``search``.
        phase: ``started``, ``finished`` or ``skipped``.
        seconds: how long it took; None at its begin.
        detail: why it was skipped.
    """

    sequence: int
    stage: str
    phase: str
    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class EarlyHits:
    """Hits that needed no language model; the round may order them otherwise."""

    sequence: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class CaptionDelta:
    """A piece of a caption while it is written."""

    sequence: int
    image_id: str
    text: str


@dataclass(frozen=True, slots=True)
class CaptionReady:
    """A finished caption."""

    sequence: int
    caption: Caption


@dataclass(frozen=True, slots=True)
class RewriteDelta:
    """A piece of the rewrite while it is written; only a preview, for the guard may reject it."""

    sequence: int
    text: str


@dataclass(frozen=True, slots=True)
class RewriteReady:
    """The finished rewrite."""

    sequence: int
    rewrite: Rewrite


@dataclass(frozen=True, slots=True)
class RoundReady:
    """The round; exactly one, at the end."""

    sequence: int
    round: Round


Event = StageEvent | EarlyHits | CaptionDelta | CaptionReady | RewriteDelta | RewriteReady | RoundReady
"""What happens in a running round."""


def event_from_proto(message: orchestrator_pb2.RefineSessionResponse) -> Event | None:
    """From ``warmer.v1.RefineSessionResponse``; None for a kind of event that is newer than this client."""
    kind = message.WhichOneof("event")
    return _READERS[kind](message) if kind in _READERS else None


def _stage_event(sequence: int, message: orchestrator_pb2.StageEvent) -> StageEvent:
    phase = enum_name(orchestrator_pb2.StageEvent.Phase, message.phase, "PHASE_")
    spent = seconds(message.duration) if message.HasField("duration") else None
    return StageEvent(sequence, stage_name(message.stage), phase, spent, message.detail)


_READERS: dict[str | None, Callable[[orchestrator_pb2.RefineSessionResponse], Event]] = {
    "stage": lambda m: _stage_event(m.sequence, m.stage),
    "early_hits": lambda m: EarlyHits(m.sequence, tuple(map(Hit.from_proto, m.early_hits.hits))),
    "caption_delta": lambda m: CaptionDelta(m.sequence, m.caption_delta.key, m.caption_delta.text),
    "caption": lambda m: CaptionReady(m.sequence, Caption.from_proto(m.caption)),
    "rewrite_delta": lambda m: RewriteDelta(m.sequence, m.rewrite_delta),
    "rewrite": lambda m: RewriteReady(m.sequence, Rewrite.from_proto(m.rewrite)),
    "round": lambda m: RoundReady(m.sequence, Round.from_proto(m.round)),
}
