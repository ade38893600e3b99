"""Turns the figures of runs into the sections of a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from warmer.bench.metrics import Metric
from warmer.bench.report.figures import RunFigures, SeriesFigures
from warmer.bench.report.tables import Section, Table, number, share, table, with_interval

HEADLINES = ("hits@10", "recall@10", "mrr", "median-rank", "bri")
_MOST_FAILURES = 20  # reasons in the table; figures.json has them all
READING = (
    "In brackets: 95 % interval, bootstrap over images. Differences are paired over the queries that both have. Failed "
    "hunts are misses and stay in the denominator. BRI and rounds: lower is better."
)


def run_sections(figures: RunFigures) -> list[Section]:
    """What a report says of one run."""
    sections = [_about(figures)]
    if not figures.series:
        return [*sections, Section("No hunts", 3, ("The run has not played a hunt yet.",))]
    named = {metric.name: metric for metric in figures.shown}
    sections.append(_hunts(figures))
    sections.extend(_headline(figures, named[name]) for name in HEADLINES if name in named)
    sections.append(_depths(figures))
    if any(item.series.several_targets for item in figures.series):
        sections.append(_lists(figures))
    return [*sections, _endings(figures), _operation(figures)]


def _about(figures: RunFigures) -> Section:
    header = figures.run.header
    rows = [
        ("dataset", header.dataset),
        ("collection", header.collection),
        ("images", header.images),
        *flat(header.settings),
        *((f"model of the {service}", model) for service, model in sorted(header.models.items())),
    ]
    tables = [table(("what", "value"), rows, labels=2)]
    notes = []
    if header.problems:
        tables.append(table(("problem of the dataset", "number"), sorted(header.problems.items())))
    if figures.run.duplicates:
        notes.append(f"{figures.run.duplicates} hunts were there twice; the first of each counts.")
    return Section(figures.run.name, 2, tuple(notes), tuple(tables))


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings by dotted name, as text, sorted."""
    rows: list[tuple[str, str]] = []
    for name, value in sorted(settings.items()):
        if isinstance(value, Mapping):
            rows.extend(flat(value, f"{prefix}{name}."))
        else:
            text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{name}", text))
    return rows


def _hunts(figures: RunFigures) -> Section:
    rows = [
        (
            item.label,
            len(item.series.hunts),
            item.series.number_of_clusters,
            int(item.series.failed.sum()),
            with_interval(item.metrics["found"][0]),
            with_interval(item.metrics["rounds-to-success"][0]),
        )
        for item in figures.series
    ]
    head = ("arm", "hunts", "images", "failed", "share found", "rounds to success, of those found")
    notes = [
        f"{pair.main} and {pair.control}: {pair.unpaired} hunts have no counterpart, and are in no difference."
        for pair in figures.pairs
        if pair.unpaired
    ]
    return Section("Hunts", 3, (READING, *notes), (table(head, rows),))


def _headline(figures: RunFigures, metric: Metric) -> Section:
    """One metric, the arms side by side, then main minus each control."""
    pairs = [(f"{pair.main} - {pair.control}", pair.metrics[metric.name]) for pair in figures.pairs]
    arms = [(item.label, item.metrics[metric.name]) for item in figures.series]
    head = ("round", *(label for label, _ in arms), *(label for label, _ in pairs))
    rows = [
        (
            index,
            *(with_interval(rounds[index], short=metric.median) for _, rounds in arms),
            *(with_interval(rounds[index], sign=True, short=metric.median) for _, rounds in pairs),
        )
        for index in range(figures.series[0].series.rounds)
    ]
    title = metric.title[0].upper() + metric.title[1:]
    return Section(f"{title} by round", 3, (), (table(head, rows),))


def _depths(figures: RunFigures) -> Section:
    chosen = [metric for metric in figures.shown if metric.name.startswith(("hits@", "recall@"))]
    return Section("Hits and Recall at every depth", 3, (), (_wide(figures.series, chosen),))


def _lists(figures: RunFigures) -> Section:
    begins = ("precision@", "set-recall@", "f1@", "ndcg@", "map", "mrr-delivered")
    chosen = [metric for metric in figures.shown if metric.name.startswith(begins)]
    note = (
        "Over the delivered hits and all relevant images of a query; the hunt still ends with the first one displayed."
    )
    return Section("Several relevant images", 3, (note,), (_wide(figures.series, chosen),))


def _wide(series: Sequence[SeriesFigures], chosen: Iterable[Metric]) -> Table:
    """Arms and metrics down, rounds across."""
    rows = [
        (item.label, metric.title, *(with_interval(estimate) for estimate in item.metrics[metric.name]))
        for metric in chosen
        for item in series
    ]
    rounds = range(series[0].series.rounds)
    return table(("arm", "metric", *(f"round {index}" for index in rounds)), rows, labels=2)


def _endings(figures: RunFigures) -> Section:
    stops = sorted({name for item in figures.series for name in item.operation.stops})
    rows = [
        (item.label, *(share(item.operation.stops.get(name, 0), len(item.series.hunts)) for name in stops))
        for item in figures.series
    ]
    tables = [table(("arm", *stops), rows)]
    failures = [
        (item.label, reason, count)
        for item in figures.series
        for reason, count in list(item.operation.failures.items())[:_MOST_FAILURES]
    ]
    if failures:
        tables.append(table(("arm", "why hunts failed", "number"), failures, labels=2))
    return Section("How hunts ended", 3, (), tuple(tables))


def _operation(figures: RunFigures) -> Section:
    counts = [
        (
            item.label,
            item.operation.rounds,
            item.operation.tokens,
            number(item.operation.tokens / item.operation.rounds if item.operation.rounds else None),
            share(item.operation.degraded_rounds, item.operation.rounds),
            ", ".join(f"{stage} {count}" for stage, count in item.operation.degraded.items()),
            share(item.operation.fell_back, item.operation.rewrites),
        )
        for item in figures.series
    ]
    head = ("arm", "rounds", "tokens", "per round", "degraded rounds", "by stage", "guard fell back, of rewrites")
    latencies = [
        (item.label, one.stage, "0" if one.first else "1 and later", one.count, _ms(one.p50), _ms(one.p95))
        for item in figures.series
        for one in item.operation.latencies
    ]
    tables = [table(head, counts)]
    if latencies:
        names = ("arm", "stage", "rounds", "number", "p50, ms", "p95, ms")
        tables.append(table(names, latencies, labels=3))
    note = (
        "The time of a whole round is what the client waited for, those of its stages are what the services say. "
        "Round 0 is played once for each query, and stands in every arm."
    )
    return Section("How the rounds went", 3, (note,), tuple(tables))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
