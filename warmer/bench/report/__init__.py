"""Writes what runs came to: a Markdown table, plots, an HTML page that shows some hunts, and all numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmer.bench.extra import require
from warmer.bench.metrics import load_runs, metrics
from warmer.bench.metrics.series import DEFAULT_DEPTHS
from warmer.bench.report import markdown, page, plots
from warmer.bench.report.figures import RunFigures, as_json, collect
from warmer.bench.report.pictures import Images, Pictures
from warmer.bench.report.sections import HEADLINES, run_sections
from warmer.bench.report.tables import Section, table, with_interval

__all__ = ["Report", "write_report"]

_TITLE = "What feedback is worth"


@dataclass(frozen=True)
class Report:
    """The files that were written. `summary` is a short Markdown table for a terminal."""

    markdown: Path
    page: Path
    figures: Path
    plots: tuple[Path, ...]
    summary: str


def write_report(run: Path | Sequence[Path], out: Path, images: Images | None = None) -> Report:
    """Writes `report.md`, `report.html`, `figures.json` and a PNG for each plot into the folder `out`.

    Args:
        run: the file of a run, or of several, which then stand side by side.
        out: is made where it does not exist; files of an earlier report are replaced.
        images: gives the file of an image id, None for one that has none; without it the page shows ids alone.

    Raises FailedPrecondition (``PACKAGE_NOT_INSTALLED``), InvalidArgument (``NOT_A_RUN``, ``TARGETS_DIFFER``), OSError.
    """
    require("ir_measures", "matplotlib", "PIL")
    runs = load_runs([run] if isinstance(run, Path) else list(run))
    figures = [collect(one) for one in runs]
    out.mkdir(parents=True, exist_ok=True)
    drawn = [(metric, title, plots.draw(title, plots.lines(figures, metric))) for metric, title in plots.PLOTTED]
    files = [out / f"{metric.replace('@', '-at-')}.png" for metric, _, _ in drawn]
    for file, (_, _, data) in zip(files, drawn, strict=True):
        file.write_bytes(data)
    overview = _overview(figures)
    sections = [overview, *(section for one in figures for section in run_sections(one))]
    report = Report(
        out / "report.md", out / "report.html", out / "figures.json", tuple(files), markdown.render([overview])
    )
    named = [(title, file.name) for file, (_, title, _) in zip(files, drawn, strict=True)]
    _write(report.markdown, markdown.render(sections, named))
    pictures = Pictures(images)
    _write(report.page, page.render(_TITLE, sections, [(title, data) for _, title, data in drawn], runs, pictures))
    _write(report.figures, json.dumps(as_json(figures), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    return report


def _overview(runs: Sequence[RunFigures]) -> Section:
    """The last round of everything, in one table."""
    rows = []
    for figures in runs:
        shown = [metric for metric in figures.shown if metric.name in HEADLINES]
        for item in figures.series:
            label = f"{figures.run.name}: {item.label}" if len(runs) > 1 else item.label
            last = [with_interval(item.metrics[metric.name][-1], short=metric.median) for metric in shown]
            rows.append((label, len(item.series.hunts), int(item.series.failed.sum()), *last))
    titles = [metric.title for metric in metrics(DEFAULT_DEPTHS) if metric.name in HEADLINES]
    head = ("arm", "hunts", "failed", *titles)
    return Section(_TITLE, 1, ("After the last round; by round below.",), (table(head, rows),))


def _write(path: Path, text: str) -> None:
    # A lone half of a surrogate pair can come in through JSON and has no UTF-8.
    path.write_text(text, encoding="utf-8", errors="replace")
