"""Simulated people: whom they look for, what they mark, what they say, and when they err. Pure functions.

Whatever is random comes from a generator of its own, seeded by the run's seed, the query and the round: neither the
order in which hunts are played nor how many run at once changes what a person does.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from warmer.bench.datasets.base import Query


@dataclass(frozen=True)
class Goal:
    """What one person looks for.

    Attributes:
        targets: any of them displayed is the find. Empty when none is in the collection.
        ranked: images whose ranks are recorded, the targets among them.
        relevant: images that the ground truth says are like the targets, the targets aside.
    """

    targets: tuple[str, ...]
    ranked: tuple[str, ...]
    relevant: frozenset[str]


def goal_of(
    query: Query, present: Collection[str], mates: Mapping[str, frozenset[str]], *, user: str, seed: int
) -> Goal:
    """What the person of a query looks for.

    Args:
        query: the query.
        present: ids of the images in the collection.
        mates: for images of a group, all images of it.
        user: ``labels`` has one of the query's targets in mind, and takes the other ones, and the images of the same
            groups, for relevant; the others are content with any target.
        seed: of the run.
    """
    targets = tuple(id for id in dict.fromkeys(query.targets) if id in present)
    related = frozenset(targets).union(*(mates.get(id, frozenset()) for id in targets))
    if user != "labels" or not targets:
        return Goal(targets, targets, related.difference(targets))
    in_mind = generator(seed, query.query_id, "target").choice(targets)
    return Goal((in_mind,), targets, related - {in_mind})


def comments_of(query: Query, seed: int) -> tuple[str, ...]:
    """What the person says round after round: other captions of the target, shuffled, each once, never the query."""
    others = sorted({text for text in query.others if text.strip()} - {query.text})
    generator(seed, query.query_id, "comments").shuffle(others)
    return tuple(others)


def chosen(
    candidates: Sequence[str], likeness: Mapping[str, float], *, marks: int, error_rate: float, luck: random.Random
) -> tuple[str, ...]:
    """The images that the person marks as near.

    Args:
        candidates: images that may be marked, in the order of the hits, the targets not among them.
        likeness: to the target, by image; who has none is not chosen, except by error.
        marks: most images to mark.
        error_rate: probability that others are marked instead, at random.
        luck: decides about errors.
    """
    judged = [id for id in candidates if id in likeness]
    nearest = sorted(judged, key=lambda id: -likeness[id])[:marks]  # stable: among equals the better hit
    if luck.random() >= error_rate:
        return tuple(nearest)
    others = [id for id in candidates if id not in nearest]
    return tuple(luck.sample(others, min(marks, len(others)))) if others else tuple(nearest)


def generator(seed: int, query_id: str, purpose: str, round: int = 0) -> random.Random:
    """A random generator that depends on these alone."""
    key = f"{seed}\0{purpose}\0{round}\0{query_id}".encode("utf-8", "surrogateescape")
    return random.Random(hashlib.sha256(key).digest())  # noqa: S311 - simulation, no secret
