"""Compares two runs, hunt by hunt: in what they differ, whether they can be compared, and by how much B is better.

What a run is about (strategy, models, collection) may differ: that is what one compares. What makes the task another
one (users, how much is shown, rounds, comments, number of images) is a warning, and another dataset is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmer.bench.extra import require
from warmer.bench.metrics import (
    ARMS,
    ByRound,
    Metric,
    Run,
    Series,
    figures,
    load_runs,
    metrics,
    paired,
    paired_differences,
)
from warmer.bench.report.figures import metrics_json
from warmer.bench.report.markdown import render
from warmer.bench.report.sections import HEADLINES, flat
from warmer.bench.report.tables import Section, Table, table, with_interval
from warmer.errors import InvalidArgument

EXPECTED, WARNING, REFUSED = "expected", "warning", "refused"
_COMPARED = ("strategy", "collection", "models", "controls")  # with what is nested in them
VERSION = 1


@dataclass(frozen=True)
class SettingDifference:
    """Something that the runs do not share. `kind` is ``expected``, ``warning`` or ``refused``."""

    name: str
    a: str
    b: str
    kind: str


@dataclass(frozen=True)
class ArmComparison:
    """One arm in both runs, over the `pairs` queries that both played; `only_a` and `only_b` count the others.

    `difference` is B minus A. `failed_a` and `failed_b` are among the pairs, as misses.
    """

    label_a: str
    label_b: str
    pairs: int
    only_a: int
    only_b: int
    failed_a: int
    failed_b: int
    a: dict[str, ByRound]
    b: dict[str, ByRound]
    difference: dict[str, ByRound]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found."""

    name_a: str
    name_b: str
    differences: tuple[SettingDifference, ...]
    arms: tuple[ArmComparison, ...]
    metrics: tuple[Metric, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the comparison doubtful, a sentence each."""
        settings = (
            f"{item.name} differs: {item.a or 'empty'} in A, {item.b or 'empty'} in B"
            for item in self.differences
            if item.kind != EXPECTED
        )
        missing = (
            f"{arm.label_a}: {arm.only_a} hunts are in A only and {arm.only_b} in B only; they are left out"
            for arm in self.arms
            if arm.only_a or arm.only_b
        )
        failed = (
            f"{arm.label_a}: of the hunts compared {arm.failed_a} failed in A and {arm.failed_b} in B; they are misses"
            for arm in self.arms
            if arm.failed_a or arm.failed_b
        )
        return (*settings, *missing, *failed)

    def text(self) -> str:
        """For a terminal; it is Markdown too."""
        return render([self._head(), *(self._arm(arm) for arm in self.arms)])

    def json(self) -> str:
        """For programs; a value that does not exist is null."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "version": VERSION,
            "a": self.name_a,
            "b": self.name_b,
            "differences": [dataclasses.asdict(item) for item in self.differences],
            "warnings": list(self.warnings),
            "arms": [_arm_json(arm) for arm in self.arms],
        }

    def _head(self) -> Section:
        tables: tuple[Table, ...] = ()
        if self.differences:
            rows = [(item.name, item.a, item.b, item.kind) for item in self.differences]
            tables = (table(("what differs", "A", "B", "is"), rows, labels=4),)
        notes = (
            f"A is {self.name_a}, B is {self.name_b}. Differences are B minus A, paired by query, with 95 % intervals "
            "(bootstrap over images). BRI and rounds: lower is better.",
            *(f"Warning: {warning}." for warning in self.warnings),
        )
        return Section(f"{self.name_b} against {self.name_a}", 1, notes, tables)

    def _arm(self, arm: ArmComparison) -> Section:
        rows = [
            (metric.title, "" if not metric.by_round else index, *_cells(arm, metric, index))
            for metric in self.metrics
            for index in range(len(arm.difference[metric.name]))
        ]
        title = arm.label_a if arm.label_a == arm.label_b else f"{arm.label_b} against {arm.label_a}"
        shown = table(("metric", "round", "A", "B", "B - A"), rows, labels=2)
        return Section(f"{title}, {arm.pairs} hunts", 2, (), (shown,))


def compare(a: Path, b: Path, *, force: bool = False) -> Comparison:
    """Compares the runs in two files, over the hunts that both have.

    Raises InvalidArgument: ``RUNS_DIFFER`` when the datasets differ (with `force` a warning), ``NO_COMMON_HUNTS``,
    ``TARGETS_DIFFER``, ``NOT_A_RUN``. FailedPrecondition (``PACKAGE_NOT_INSTALLED``).
    """
    require("ir_measures")
    run_a, run_b = load_runs([a, b])
    found = _differences(run_a, run_b, force)
    refused = [item for item in found if item.kind == REFUSED]
    if refused:
        raise InvalidArgument(
            "; ".join(f"{item.name} differs: {item.a} in {run_a.name}, {item.b} in {run_b.name}" for item in refused),
            reason="RUNS_DIFFER",
            hint="Compare runs of the same dataset.",
        )
    arms = tuple(_compared(run_a, run_b, *pair) for pair in _counterparts(run_a, run_b))
    if not arms:
        raise InvalidArgument(f"{run_a.name} and {run_b.name} have no hunt in common", reason="NO_COMMON_HUNTS")
    return Comparison(run_a.name, run_b.name, found, arms, _shown(arms))


def _differences(a: Run, b: Run, force: bool) -> tuple[SettingDifference, ...]:
    facts = [_facts(run) for run in (a, b)]
    names = sorted(set(facts[0]) | set(facts[1]))
    return tuple(
        SettingDifference(name, facts[0].get(name, ""), facts[1].get(name, ""), _kind(name, force))
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    )


def _facts(run: Run) -> dict[str, str]:
    header = run.header
    facts = dict(flat(header.settings))
    facts |= {"dataset": header.dataset, "collection": header.collection, "images": str(header.images)}
    facts |= {f"models.{service}": model for service, model in header.models.items()}
    facts |= {f"problems.{kind}": str(number) for kind, number in header.problems.items()}
    if run.series:
        # What was really played; the settings may leave it to a default.
        facts["user"] = ", ".join(sorted({series.user for series in run.series}))
        facts["strategy"] = ", ".join(sorted({series.strategy for series in run.mains})) or facts.get("strategy", "")
    return facts


def _kind(name: str, force: bool) -> str:
    if name == "dataset" and not force:
        return REFUSED
    return EXPECTED if name.split(".", maxsplit=1)[0] in _COMPARED else WARNING


def _counterparts(a: Run, b: Run) -> list[tuple[Series, Series]]:
    """Series of the same arm: of the same user and strategy if there are such, else where each run has one alone."""
    pairs = []
    for arm in dict.fromkeys((*ARMS, *(series.arm for series in a.series))):
        ours, theirs = ([series for series in run.series if series.arm == arm] for run in (a, b))
        same = [(one, other) for one in ours for other in theirs if _key(one) == _key(other)]
        if not same and len(ours) == len(theirs) == 1:
            same = [(ours[0], theirs[0])]
        if not same:
            same = [(one, other) for one in ours for other in theirs if one.user == other.user]
        pairs.extend(same)
    return [(one, other) for one, other in pairs if set(one.query_ids) & set(other.query_ids)]


def _key(series: Series) -> tuple[str, str]:
    return series.strategy, series.user


def _compared(run_a: Run, run_b: Run, a: Series, b: Series) -> ArmComparison:
    common_a, common_b = paired(a, b)
    difference = dict(paired_differences(common_b, common_a))
    return ArmComparison(
        label_a=run_a.label(a),
        label_b=run_b.label(b),
        pairs=len(common_a.hunts),
        only_a=len(a.hunts) - len(common_a.hunts),
        only_b=len(b.hunts) - len(common_b.hunts),
        failed_a=int(common_a.failed.sum()),
        failed_b=int(common_b.failed.sum()),
        a=_like(figures(common_a), difference),
        b=_like(figures(common_b), difference),
        difference=difference,
    )


def _like(found: Mapping[str, ByRound], difference: dict[str, ByRound]) -> dict[str, ByRound]:
    """Those metrics and rounds that the difference has."""
    return {name: found[name][: len(rounds)] for name, rounds in difference.items()}


def _shown(arms: Sequence[ArmComparison]) -> tuple[Metric, ...]:
    """The metrics that the text shows; `json` has all of them."""
    wanted = (*HEADLINES, "found", "rounds-to-success")
    return tuple(
        metric for metric in metrics((10,)) if metric.name in wanted and all(metric.name in arm.a for arm in arms)
    )


def _cells(arm: ArmComparison, metric: Metric, index: int) -> tuple[str, str, str]:
    return (
        with_interval(arm.a[metric.name][index], short=metric.median),
        with_interval(arm.b[metric.name][index], short=metric.median),
        with_interval(arm.difference[metric.name][index], sign=True, short=metric.median),
    )


def _arm_json(arm: ArmComparison) -> dict[str, Any]:
    plain = {field.name: getattr(arm, field.name) for field in dataclasses.fields(arm)}
    return plain | {name: metrics_json(plain[name]) for name in ("a", "b", "difference")}
