"""How the rounds of a series went: time by stage, tokens, degraded rounds, guard fall-backs, failures, stops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from warmer.bench.metrics.series import Series, is_failed
from warmer.bench.records import Round


@dataclass(frozen=True)
class Latency:
    """Seconds that a stage took: of the first rounds, which know no feedback, or of all later ones."""

    stage: str
    first: bool
    count: int
    p50: float
    p95: float


@dataclass(frozen=True)
class Operation:
    """How the rounds of a series went. Rounds of failed hunts are among them, as far as those came.

    Attributes:
        rounds: number of rounds that were played.
        latencies: by stage; `round` is the whole round.
        tokens: of all rounds together.
        degraded: number of rounds that did without a stage, by stage; a round may miss several.
        degraded_rounds: number of rounds that missed any.
        rewrites: number of rounds with a rewrite or with what the guard put in its place.
        fell_back: number of those where the guard fell back to the plain join.
        failures: number of failed hunts by reason.
        stops: number of hunts by what ended them.
    """

    rounds: int
    latencies: tuple[Latency, ...]
    tokens: int
    degraded: Mapping[str, int]
    degraded_rounds: int
    rewrites: int
    fell_back: int
    failures: Mapping[str, int]
    stops: Mapping[str, int]


def operation(series: Series) -> Operation:
    """How the rounds of the series went."""
    rounds = [item for hunt in series.hunts for item in hunt.rounds]
    return Operation(
        rounds=len(rounds),
        latencies=_latencies(rounds),
        tokens=sum(item.tokens for item in rounds),
        degraded=_counted(stage for item in rounds for stage in set(item.degraded)),
        degraded_rounds=sum(bool(item.degraded) for item in rounds),
        rewrites=sum(bool(item.rewrite) or item.fell_back for item in rounds),
        fell_back=sum(item.fell_back for item in rounds),
        failures=_counted(_reason(hunt.failure) for hunt in series.hunts if is_failed(hunt)),
        stops=_counted("failed" if is_failed(hunt) else hunt.stopped for hunt in series.hunts),
    )


def _latencies(rounds: Iterable[Round]) -> tuple[Latency, ...]:
    seconds: dict[tuple[str, bool], list[float]] = {}
    for item in rounds:
        for stage, took in item.timings.items():
            seconds.setdefault((stage, item.index == 0), []).append(took)
    # The whole round comes last, the first rounds before the later ones.
    keys = sorted(seconds, key=lambda key: (key[0] == "round", key[0], not key[1]))
    return tuple(
        Latency(*key, len(seconds[key]), *(float(value) for value in np.percentile(seconds[key], (50, 95))))
        for key in keys
    )


def _reason(failure: str) -> str:
    """`UNAVAILABLE` of "UNAVAILABLE: the embedder is away": what follows the reason may differ in each hunt."""
    begin = re.match(r"[A-Z][A-Z0-9_]+(?=:)", failure)
    return begin.group() if begin else failure or "no reason given"


def _counted(names: Iterable[str]) -> Mapping[str, int]:
    """Most frequent first, then by name."""
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
