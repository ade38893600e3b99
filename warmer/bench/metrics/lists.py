"""Metrics of the delivered hits against all targets of the hunt, by ``ir-measures`` (which asks trec_eval).

Targets that were not delivered, or are not in the collection at all, count as relevant and missed. Precision divides by
K even where fewer hits were delivered.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmer.bench.records import Round

Relevant = dict[str, int]
Scored = dict[str, float]


def list_values(
    rounds: Sequence[Sequence[Round | None]], targets: Sequence[Collection[str]], depths: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """The value of each hunt at each round by each metric: (N, R).

    `rounds` holds what counts for each hunt at each round (None for a miss), `targets` what is relevant for each.
    """
    length = len(rounds[0]) if rounds else 0
    measures = _measures(depths)
    measured = {name: np.zeros((len(rounds), length + 1)) for name in measures}  # the last column is that of a miss
    for name, row, index, value in _measured(rounds, targets, measures):
        measured[name][row, index] = value
    sources = np.array([[length if item is None else item.index for item in row] for row in rounds], dtype=int)
    sources = sources.reshape(len(rounds), length)
    tables = {name: np.take_along_axis(table, sources, axis=1) for name, table in measured.items()}
    for depth in depths:
        tables[f"f1@{depth}"] = _harmonic_mean(tables[f"precision@{depth}"], tables[f"set-recall@{depth}"])
    return tables


def _measures(depths: Sequence[int]) -> dict[str, Any]:
    from ir_measures import AP, RR, P, R, nDCG

    at_depth = {"precision": P, "set-recall": R, "ndcg": nDCG}
    measures = {f"{name}@{depth}": measure @ depth for name, measure in at_depth.items() for depth in depths}
    return measures | {"map": AP, "mrr-delivered": RR}


def _measured(
    rounds: Sequence[Sequence[Round | None]], targets: Sequence[Collection[str]], measures: dict[str, Any]
) -> list[tuple[str, int, int, float]]:
    """(metric, hunt, round's index, value) of every round that there was."""
    import ir_measures

    lists: dict[str, Scored] = {}
    relevant: dict[str, Relevant] = {}
    for row, (items, wanted) in enumerate(zip(rounds, targets, strict=True)):
        for index, item in {item.index: item for item in items if item is not None}.items():
            query = f"{row} {index}"
            lists[query], relevant[query] = _as_list(item.hits, wanted)
    if not lists:
        return []
    names = {measure: name for name, measure in measures.items()}
    return [
        (names[result.measure], *_numbers(result.query_id), float(result.value))
        for result in ir_measures.iter_calc(list(names), relevant, lists)
    ]


def _as_list(hits: Sequence[str], targets: Collection[str]) -> tuple[Scored, Relevant]:
    """Hits by place with falling scores, so that there are no ties, and what is relevant; without ids of images."""
    places = {image_id: place for place, image_id in reversed(list(enumerate(hits, 1)))}  # the first place of each
    scored = {str(place): -float(place) for place in sorted(places.values())}
    relevant = {str(places.get(target, f"missing {number}")): 1 for number, target in enumerate(sorted(set(targets)))}
    return scored or {"nothing": 0.0}, relevant


def _numbers(query: str) -> tuple[int, int]:
    row, index = query.split(" ")
    return int(row), int(index)


def _harmonic_mean(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    total = a + b
    return np.divide(2 * a * b, total, out=np.zeros_like(total), where=total > 0)
