"""All numbers of a report, for the pages that show them and for programs (`figures.json`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmer.bench.metrics import (
    ByRound,
    Metric,
    Operation,
    Run,
    Series,
    figures,
    metrics,
    operation,
    paired,
    paired_differences,
)

VERSION = 1


@dataclass(frozen=True)
class SeriesFigures:
    """Everything about one series. `label` tells it from the others of its run."""

    label: str
    series: Series
    metrics: Mapping[str, ByRound]
    operation: Operation


@dataclass(frozen=True)
class PairFigures:
    """A main series minus one of its controls, over the `pairs` queries that both have; `unpaired` only one has."""

    main: str
    control: str
    pairs: int
    unpaired: int
    metrics: Mapping[str, ByRound]


@dataclass(frozen=True)
class RunFigures:
    """Everything about one run."""

    run: Run
    series: tuple[SeriesFigures, ...]
    pairs: tuple[PairFigures, ...]

    @property
    def shown(self) -> Sequence[Metric]:
        """The metrics of the run, by their depths; empty without hunts."""
        return metrics(self.series[0].series.depths) if self.series else ()


def collect(run: Run) -> RunFigures:
    """Computes everything that a report says about a run.

    Raises InvalidArgument (``TARGETS_DIFFER``) when a query has other targets in a control than in the main series.
    """
    series = tuple(SeriesFigures(run.label(one), one, figures(one), operation(one)) for one in run.series)
    pairs = tuple(
        _pair(run, main, control)
        for main in run.mains
        for control in run.controls(main)
        if set(main.query_ids) & set(control.query_ids)  # an interrupted run may have none yet
    )
    return RunFigures(run, series, pairs)


def as_json(runs: Sequence[RunFigures]) -> dict[str, Any]:
    """All numbers, by names that stay. A value that does not exist is null."""
    return {"version": VERSION, "runs": [_run_json(run) for run in runs]}


def _pair(run: Run, main: Series, control: Series) -> PairFigures:
    ours, _ = paired(main, control)
    pairs = len(ours.hunts)
    return PairFigures(
        main=run.label(main),
        control=run.label(control),
        pairs=pairs,
        unpaired=len(main.hunts) + len(control.hunts) - 2 * pairs,
        metrics=paired_differences(main, control),
    )


def _run_json(figures: RunFigures) -> dict[str, Any]:
    run = figures.run
    return {
        "name": run.name,
        "header": dataclasses.asdict(run.header),
        "duplicates": run.duplicates,
        "metrics": [dataclasses.asdict(metric) for metric in figures.shown],
        "series": [_series_json(item) for item in figures.series],
        "differences": [
            {
                "of": pair.main,
                "minus": pair.control,
                "pairs": pair.pairs,
                "unpaired": pair.unpaired,
                "metrics": metrics_json(pair.metrics),
            }
            for pair in figures.pairs
        ],
    }


def _series_json(item: SeriesFigures) -> dict[str, Any]:
    series = item.series
    return {
        "label": item.label,
        "arm": series.arm,
        "strategy": series.strategy,
        "user": series.user,
        "hunts": len(series.hunts),
        "failed": int(series.failed.sum()),
        "clusters": series.number_of_clusters,
        "unranked": series.unranked,
        "metrics": metrics_json(item.metrics),
        "operation": dataclasses.asdict(item.operation),
    }


def metrics_json(found: Mapping[str, ByRound]) -> dict[str, list[dict[str, float | None]]]:
    """Metrics by round as plain data."""
    return {name: [dataclasses.asdict(estimate) for estimate in rounds] for name, rounds in found.items()}
