"""What each hunt is worth by each metric and round: tables of N hunts x R rounds, from which everything else follows.

Metrics of lists (precision, recall, nDCG, average precision, reciprocal rank of the delivered hits) come from
``ir-measures``. Those here are made from single ranks, which no library takes. Hits@K and Recall@K by round are what
Levy et al. 2023 (ChatIR) and PlugIR call so. BRI is PlugIR's "Best log Rank Integral" (Lee et al., ACL 2024,
arXiv 2406.03411, section 3.4, definitions 1 and 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmer.bench.metrics.lists import list_values
from warmer.bench.metrics.series import Series
from warmer.bench.records import Hunt, Round

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A metric. `name` is stable and for programs, `title` for people.

    `median` says that hunts are joined by their median and not by their mean; `by_round` that it has a value for each
    round and not one for the whole hunt; `share` that it lies between 0 and 1.
    """

    name: str
    title: str
    higher_is_better: bool = True
    median: bool = False
    by_round: bool = True
    share: bool = True


def metrics(depths: tuple[int, ...]) -> tuple[Metric, ...]:
    """All metrics, the K of those at a depth being `depths`."""
    return (
        *(Metric(f"hits@{depth}", f"Hits@{depth}") for depth in depths),
        *(Metric(f"recall@{depth}", f"Recall@{depth}") for depth in depths),
        Metric("mrr", "MRR"),
        Metric("median-rank", "median rank", higher_is_better=False, median=True, share=False),
        Metric("bri", "BRI", higher_is_better=False, share=False),
        Metric("found", "found", by_round=False),
        Metric("rounds-to-success", "rounds to success", higher_is_better=False, by_round=False, share=False),
        *list_metrics(depths),
    )


def list_metrics(depths: tuple[int, ...]) -> tuple[Metric, ...]:
    """Those over the delivered hits, which tell more than Hits@K where several images are relevant."""
    at_depth = (("precision", "P"), ("set-recall", "R"), ("f1", "F1"), ("ndcg", "nDCG"))
    return (
        *(Metric(f"{name}@{depth}", f"{title}@{depth}") for name, title in at_depth for depth in depths),
        Metric("map", "mAP"),
        Metric("mrr-delivered", "MRR of delivered hits"),
    )


def metric_named(series: Series, name: str) -> Metric:
    """The metric of this name. Raises KeyError when there is none."""
    return {metric.name: metric for metric in metrics(series.depths)}[name]


def values(series: Series) -> Mapping[str, Table]:
    """The value of each hunt by each metric: (N, R), or (N, 1) of metrics that are not by round.

    NaN is "has no value": rounds to success of a hunt that found nothing. Failed hunts are misses by every metric.
    """
    targets = [hunt.targets for hunt in series.hunts]
    return {**rank_values(series), **list_values(last_rounds(series), targets, series.depths)}


def rank_values(series: Series) -> Mapping[str, Table]:
    """Those that come from ranks and places alone, which takes no time: all but `list_metrics`."""
    positions = _by_round(series, lambda item: item.position)
    ranks = _by_round(series, lambda item: item.rank)
    best_position = np.minimum.accumulate(positions, axis=1)
    finite = np.minimum(ranks, series.unranked)
    found = np.array([np.nan if hunt.found is None else hunt.found for hunt in series.hunts], dtype=float)
    found[series.failed] = np.nan
    return {
        **{f"hits@{depth}": (best_position <= depth).astype(float) for depth in series.depths},
        **{f"recall@{depth}": (ranks <= depth).astype(float) for depth in series.depths},
        "mrr": 1.0 / ranks,
        "median-rank": finite,
        "bri": best_log_rank_integral(finite),
        "found": np.isfinite(found).astype(float)[:, None],
        "rounds-to-success": found[:, None],
    }


def best_log_rank_integral(ranks: Table) -> Table:
    """BRI of each hunt after T = 0, 1, ... R - 1 rounds of feedback: ranks (N, R) to (N, R), lower is better.

    With b_t the best rank so far: (log(b_0) + log(b_T)) / 2T + (1/T) sum of log(b_t) over t = 1..T-1, which is the area
    under log(b) by the trapezoidal rule, divided by T. The logarithm is the natural one, and ranks begin at 1. Without
    feedback (T = 0) the paper gives no value; it is log(b_0) here, the limit of a curve that stays level.
    (The code published with the paper leaves the logarithm out and counts ranks from 0; this is the paper's text.)
    """
    best = np.log(np.minimum.accumulate(ranks, axis=1))
    result = best.copy()
    spans = np.arange(1, best.shape[1])
    result[:, 1:] = np.cumsum((best[:, :-1] + best[:, 1:]) / 2, axis=1) / spans
    return result


def last_rounds(series: Series) -> list[list[Round | None]]:
    """What counts for each hunt at each round: that round, or the last before it, since an ended hunt stays as it was.

    None before a hunt's first round, and for all rounds of a failed hunt.
    """
    return [_carried(hunt, series.rounds, failed) for hunt, failed in zip(series.hunts, series.failed, strict=True)]


def _carried(hunt: Hunt, rounds: int, failed: bool) -> list[Round | None]:
    by_index = {} if failed else {item.index: item for item in hunt.rounds}
    carried: list[Round | None] = []
    for index in range(rounds):
        carried.append(by_index.get(index, carried[-1] if carried else None))
    return carried


def _by_round(series: Series, pick: Callable[[Round], int | None]) -> Table:
    """(N, R); infinite where there is no such number."""
    table = np.full((len(series.hunts), series.rounds), np.inf)
    for row, rounds in enumerate(last_rounds(series)):
        for column, item in enumerate(rounds):
            number = None if item is None else pick(item)
            if number is not None:
                table[row, column] = number
    return table
