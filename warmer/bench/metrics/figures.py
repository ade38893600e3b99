"""Figures of a series, and paired differences of two, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from warmer.bench.metrics.bootstrap import Estimate, Sample, differences, estimates
from warmer.bench.metrics.series import Series
from warmer.bench.metrics.values import Metric, Table, list_metrics, metric_named, metrics, rank_values, values
from warmer.errors import InvalidArgument

ByRound = tuple[Estimate, ...]  # one for each round; one alone for a metric of the whole hunt


@dataclass(frozen=True)
class Difference:
    """The first series minus the second in one metric, over the `pairs` queries that both have."""

    value: float | None
    low: float | None
    high: float | None
    pairs: int


def figures(series: Series) -> Mapping[str, ByRound]:
    """Every metric by round, with 95 % intervals."""
    chosen = metrics(series.depths)
    return _by_round(chosen, series.rounds, estimates(_sample(series, chosen, series.rounds)))


def paired_differences(a: Series, b: Series) -> Mapping[str, ByRound]:
    """`a` minus `b` by metric and round, over the queries, rounds and depths that both have.

    Both are resampled together, by image. A median's difference is that of the medians. Failed hunts stay in, as
    misses.
    Raises InvalidArgument: ``NO_COMMON_HUNTS``, ``TARGETS_DIFFER``.
    """
    a, b = paired(a, b)
    rounds = min(a.rounds, b.rounds)
    shared = set(metrics(a.depths)) & set(metrics(b.depths))
    chosen = tuple(metric for metric in metrics(a.depths) if metric in shared)
    found = differences(_sample(a, chosen, rounds), _sample(b, chosen, rounds))
    return _by_round(chosen, rounds, found)


def paired_difference(a: Series, b: Series, metric: str, round: int = -1) -> Difference:
    """`a` minus `b` in one metric (named as ``hits@10``) at one round (default: the last that both have).

    Raises InvalidArgument as :func:`paired_differences`, and ``UNKNOWN_METRIC``, ``UNKNOWN_ROUND``.
    """
    a, b = paired(a, b)
    rounds = min(a.rounds, b.rounds)
    try:
        chosen = metric_named(a, metric)
        metric_named(b, metric)
    except KeyError as error:
        names = sorted({item.name for item in metrics(a.depths)} & {item.name for item in metrics(b.depths)})
        raise InvalidArgument(
            f"there is no metric {metric!r}",
            reason="UNKNOWN_METRIC",
            field="metric",
            hint=f"There are {', '.join(names)}.",
        ) from error
    if not -rounds <= round < rounds:
        raise InvalidArgument(
            f"there is no round {round}", reason="UNKNOWN_ROUND", field="round", hint=f"There are 0 to {rounds - 1}."
        )
    found = differences(_sample(a, (chosen,), rounds), _sample(b, (chosen,), rounds))
    one = found[round] if chosen.by_round else found[0]
    return Difference(one.value, one.low, one.high, len(a.hunts))


def paired(a: Series, b: Series) -> tuple[Series, Series]:
    """Both series with the queries alone that both have.

    Raises InvalidArgument: ``NO_COMMON_HUNTS``; ``TARGETS_DIFFER`` when a query looks for other images in one of them.
    """
    common = set(a.query_ids) & set(b.query_ids)
    if not common:
        raise InvalidArgument("the two have no query in common", reason="NO_COMMON_HUNTS")
    a, b = a.only(common), b.only(common)
    for one, other in zip(a.hunts, b.hunts, strict=True):
        if set(one.targets) != set(other.targets):
            raise InvalidArgument(
                f"query {one.query_id} looks for {', '.join(sorted(one.targets))} in one of the two, "
                f"and for {', '.join(sorted(other.targets))} in the other",
                reason="TARGETS_DIFFER",
                hint="Compare runs of the same dataset.",
            )
    return a, b


def _sample(series: Series, chosen: Sequence[Metric], rounds: int) -> Sample:
    """Columns in the order of the metrics, each with its rounds."""
    lists = any(metric in list_metrics(series.depths) for metric in chosen)
    tables = values(series) if lists else rank_values(series)
    parts: list[Table] = [tables[metric.name][:, :rounds] for metric in chosen]
    medians = [np.full(part.shape[1], metric.median) for metric, part in zip(chosen, parts, strict=True)]
    return Sample(np.concatenate(parts, axis=1), np.concatenate(medians), series.clusters)


def _by_round(chosen: Sequence[Metric], rounds: int, found: Sequence[Estimate]) -> dict[str, ByRound]:
    result: dict[str, ByRound] = {}
    begin = 0
    for metric in chosen:
        end = begin + (rounds if metric.by_round else 1)
        result[metric.name] = tuple(found[begin:end])
        begin = end
    return result
