"""What each strategy is worth: tables of runs that `warmer bench run` made, as docs/benchmarks.md shows them.

    python -m benchmarks.strategies RUNS --out benchmarks/results/strategies.json

RUNS holds a folder for each run, named STRATEGY-USER with USER of semantic, visual, semantic-comment or visual-error;
the docs give the commands. The controls are those of the run of `fused`, or of a folder controls-USER: they do not
depend on the strategy. Hits@10 (cumulative) and Recall@10 by round, and paired differences at the last round.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.report import table
from warmer.bench.metrics.figures import figures, paired_difference
from warmer.bench.metrics.series import Series, load_run

STRATEGIES = ("fused", "preference", "rocchio", "rewrite")
HITS, RECALL = "hits@10", "recall@10"


def series_of(runs: Path, user: str) -> dict[str, Series]:
    """The series of one user by name: each strategy's main arm, and the controls."""
    found: dict[str, Series] = {}
    for strategy in STRATEGIES:
        file = runs / f"{strategy}-{user}" / "hunts.jsonl"
        if not file.is_file():
            continue
        for series in load_run(file).series:
            if series.arm == "main":
                found[strategy] = series
            elif strategy == "fused":
                found[series.arm] = series
    controls = runs / f"controls-{user}" / "hunts.jsonl"
    if controls.is_file():
        found |= {series.arm: series for series in load_run(controls).series if series.arm != "main"}
    return found


def rows_of(found: dict[str, Series]) -> list[dict[str, object]]:
    """One row for each series: figures by round, and `fused` minus it at the last round."""
    rows = []
    for name, series in found.items():
        numbers = figures(series)
        row: dict[str, object] = {
            "name": name,
            "queries": len(series.hunts),
            "hits": [round(estimate.value or 0.0, 4) for estimate in numbers[HITS]],
            "recall": [round(estimate.value or 0.0, 4) for estimate in numbers[RECALL]],
        }
        if name != "fused":
            difference = paired_difference(found["fused"], series, HITS)
            row["fused minus it"] = [round(v or 0.0, 4) for v in (difference.value, difference.low, difference.high)]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    users = sorted({path.name.partition("-")[2] for path in options.runs.glob("fused-*") if path.is_dir()})
    result = {user: rows_of(series_of(options.runs, user)) for user in users}
    headers = ["", "queries", "Hits@10, rounds 0..3", "Recall@10, rounds 0..3", "`fused` minus it, Hits@10"]
    for user, rows in result.items():
        print(f"\n**{user}**\n\n{table(headers, [_cells(row) for row in rows])}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _cells(row: dict[str, object]) -> list[str]:
    def listed(key: str) -> str:
        values = row.get(key)
        return " ".join(f"{value:.3f}".removeprefix("0") for value in values) if isinstance(values, list) else ""

    difference = row.get("fused minus it")
    shown = (
        "" if not isinstance(difference, list) else f"{difference[0]:+.3f} [{difference[1]:+.3f}, {difference[2]:+.3f}]"
    )
    return [str(row["name"]), f"{row['queries']:,}", listed("hits"), listed("recall"), shown]


if __name__ == "__main__":
    main()
