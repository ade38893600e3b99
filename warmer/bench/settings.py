"""The settings of a run: everything that decides its result, and nothing that does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from warmer.bench.protocols import Protocol, cumulative, reference
from warmer.errors import InvalidArgument

USERS = ("visual", "semantic", "labels")
PROTOCOLS = ("cumulative", "reference")
COMMENTS = ("none", "caption")
CHOOSE_FROM = ("displayed", "pool")

MAIN, NEXT_PAGE, COMMENT_ONLY = "main", "next-page", "comment-only"

_MAX_PAGE = 1_000


@dataclass(frozen=True)
class Settings:
    """What decides the result of a run. Two runs with equal settings on the same data and models are the same.

    Attributes:
        strategy: how feedback becomes the next search; empty is the server's default.
        protocol: ``cumulative`` or ``reference``, see `protocols`.
        user: how the person judges likeness: ``visual``, ``semantic`` or ``labels``, see `similarity`.
        comment: ``caption`` sends another human caption of the target with each round, ``none`` does not.
        shown: hits that the person looks at in each round; a target among them is found.
        choose_from: marks are taken from the images ``displayed``, or from the ``pool`` of the first 50 hits.
        rounds: of feedback, round 0 not counted. The reference protocol always has 3.
        marks: most images marked as relevant in a round.
        error_rate: share of rounds in which the person marks others than the nearest, in [0, 1].
        queries: number of queries, a sample by the seed; None for all.
        images_subset: which images' queries: ``even``, ``odd``, ``half:0``, ``half:1``, a file of ids, empty for all.
        seed: of sample, comments and errors.
        controls: whether the controls are played beside the hunts.
    """

    strategy: str = ""
    protocol: str = "cumulative"
    user: str = "visual"
    comment: str = "none"
    shown: int = 10
    choose_from: str = "displayed"
    rounds: int = 3
    marks: int = 1
    error_rate: float = 0.0
    queries: int | None = None
    images_subset: str = ""
    seed: int = 0
    controls: bool = True

    def __post_init__(self) -> None:
        """Raises InvalidArgument (``BAD_SETTING``) for a value that cannot be."""
        _among(self.protocol, PROTOCOLS, "protocol")
        _among(self.user, USERS, "user")
        _among(self.comment, COMMENTS, "comment")
        _among(self.choose_from, CHOOSE_FROM, "choose_from")
        _within(self.shown, 1, _MAX_PAGE, "shown")
        _within(self.rounds, 0, 100, "rounds")
        _within(self.marks, 1, _MAX_PAGE, "marks")
        _within(self.error_rate, 0, 1, "error_rate")
        if self.queries is not None:
            _within(self.queries, 1, 2**53, "queries")
        if self.protocol == "reference" and (self.shown, self.rounds) != (10, 3):
            raise _bad(
                "protocol", "the reference protocol shows 10 images and has 3 rounds of feedback", "Leave both out."
            )

    @property
    def arms(self) -> tuple[str, ...]:
        """What is played for each query."""
        if not self.controls:
            return (MAIN,)
        return (MAIN, NEXT_PAGE, COMMENT_ONLY) if self.comment != "none" else (MAIN, NEXT_PAGE)

    def protocol_of(self, arm: str) -> Protocol:
        """The rules of an arm. Controls have no early stops: who only turns pages has no reason to stop early."""
        if arm != MAIN:
            return cumulative(shown=self.shown, rounds=self.rounds)
        if self.protocol == "reference":
            return reference()
        return cumulative(shown=self.shown, rounds=self.rounds, from_pool=self.choose_from == "pool")

    def as_json(self) -> dict[str, Any]:
        """For the header of a run."""
        return dataclasses.asdict(self)


def _among(value: str, allowed: Collection[str], field: str) -> None:
    if value not in allowed:
        raise _bad(field, f"{field.replace('_', ' ')} is {value!r}", f"Use one of: {', '.join(allowed)}.")


def _within(value: float, least: float, most: float, field: str) -> None:
    if not least <= value <= most:
        raise _bad(field, f"{field.replace('_', ' ')} is {value:g}", f"Give {least:g} to {most:g}.")


def _bad(field: str, message: str, hint: str) -> InvalidArgument:
    return InvalidArgument(message, reason="BAD_SETTING", field=field, hint=hint)
