"""Chooses the hunts that a report shows: some found early, some late, some never. The choice is seeded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from warmer.bench.metrics import Series
from warmer.bench.metrics.series import is_failed
from warmer.bench.records import Hunt

SEED = 0


@dataclass(frozen=True)
class Group:
    """Hunts that went alike. `among` is the number of those that did."""

    title: str
    among: int
    hunts: tuple[Hunt, ...]


def choose(series: Series, number: int) -> tuple[Group, ...]:
    """At most `number` hunts of each kind.

    Early is the first round of feedback after which any target was found, since a find in round 0 shows nothing of
    feedback; it is round 0 where no later find exists. Late is the last round after which any was found.
    """
    played = [hunt for hunt in series.hunts if not is_failed(hunt) and hunt.rounds]
    rounds = sorted({hunt.found for hunt in played if hunt.found is not None})
    early = next((index for index in rounds if index > 0), rounds[0] if rounds else None)
    late = rounds[-1] if rounds and rounds[-1] != early else None
    kinds = [(f"Found early, in round {early}", early), (f"Found late, in round {late}", late)]
    groups = [
        _group(title, [hunt for hunt in played if hunt.found == index], number)
        for title, index in kinds
        if index is not None
    ]
    never = _group("Never found", [hunt for hunt in played if hunt.found is None], number)
    return tuple(group for group in (*groups, never) if group.hunts)


def _group(title: str, hunts: Sequence[Hunt], number: int) -> Group:
    chosen = random.Random(SEED).sample(range(len(hunts)), min(number, len(hunts)))  # noqa: S311 - chooses examples
    return Group(title, len(hunts), tuple(hunts[index] for index in sorted(chosen)))
