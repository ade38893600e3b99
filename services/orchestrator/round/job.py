"""What a round is asked to do, and how its time is divided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.common.deadlines import deadline
from services.orchestrator.store.records import SessionRecord
from services.orchestrator.strategies import History, Strategy
from warmer.v1 import orchestrator_pb2 as pb


@dataclass(frozen=True)
class RoundJob:
    """One round to make.

    Attributes:
        session: the session as it was when the round was taken.
        strategy: makes the search.
        early: makes the hits that need no language model.
        history: what was said so far, this turn included; without rounds for round 0.
        sha256s: of each marked image, '' where it is not known.
        text: the query of round 0.
        example_id: the example image of round 0, when it is one of the collection.
        example_bytes: the example image of round 0, when it came as a file.
    """

    session: SessionRecord
    strategy: Strategy
    early: Strategy
    history: History
    sha256s: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    example_id: str = ""
    example_bytes: bytes = b""

    @property
    def index(self) -> int:
        """Number of the round in its session."""
        return len(self.history.rounds)

    @property
    def needs_language_models(self) -> bool:
        """Whether captions and a rewrite come before the search."""
        return self.strategy.uses_language_models and self.history.turn.has_feedback

    @property
    def first_stage(self) -> pb.Stage.ValueType:
        """The stage that begins with the round."""
        return pb.STAGE_EARLY_SEARCH if self.needs_language_models else pb.STAGE_SEARCH


class Budget:
    """The time that a round has. Stages take shares of what is left when they begin."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @asynccontextmanager
    async def limit(self, share: float, at_least: float = 0.0) -> AsyncIterator[None]:
        """The block may take this share of what is left; calls to other services inside get that as their deadline.

        Raises TimeoutError when the time is up.
        """
        seconds = max(self.left() * share, at_least)
        with deadline(seconds):
            async with asyncio.timeout(seconds):
                yield
