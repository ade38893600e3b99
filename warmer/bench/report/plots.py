"""Plots of Hits and Recall by round with intervals, as PNG.

Colours are those of Okabe and Ito (2008), which people with any kind of colour vision can tell apart; markers and line
styles differ as well.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from warmer.bench.metrics import ByRound
from warmer.bench.report.figures import RunFigures

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLES = {"main": "-", "next-page": "--", "comment-only": ":"}
_SPREAD = 0.24  # of a round, over which the lines' intervals are laid side by side
PLOTTED = (("hits@10", "Hits@10 by round (cumulative)"), ("recall@10", "Recall@10 by round"))
_LONG_LABEL = 28  # characters; of longer ones three do not fit beside each other


@dataclass(frozen=True)
class Line:
    """A series in a plot."""

    label: str
    arm: str
    rounds: ByRound


def lines(runs: Sequence[RunFigures], metric: str) -> list[Line]:
    """All series of all runs in one metric; with several runs, each label names its run."""
    return [
        Line(
            f"{figures.run.name}: {item.label}" if len(runs) > 1 else item.label, item.series.arm, item.metrics[metric]
        )
        for figures in runs
        for item in figures.series
    ]


def draw(title: str, chosen: Sequence[Line]) -> bytes:
    """A PNG. Values that do not exist leave a gap."""
    # The figure is drawn without pyplot: that would keep state of its own and might look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.4 + 0.09 * max(0, len(chosen) - 3)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    looks = islice(cycle(zip(_COLOURS, _MARKERS, strict=True)), len(chosen))
    for number, (line, (colour, marker)) in enumerate(zip(chosen, looks, strict=True)):
        x, y, below, above = _points(line, _SPREAD * (number - (len(chosen) - 1) / 2) / max(1, len(chosen)))
        axes.errorbar(
            x,
            y,
            yerr=(below, above),
            label=line.label,
            color=colour,
            marker=marker,
            markersize=5,
            linestyle=_STYLES.get(line.arm, "-."),
            linewidth=1.6,
            elinewidth=1.1,
            capsize=2.5,
        )
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.set_ylabel("share of hunts, 95 % interval")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if chosen:
        labels = [str(label) for label in axes.get_legend_handles_labels()[1]]
        columns = 1 if max(map(len, labels), default=0) > _LONG_LABEL else min(3, len(chosen))
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    target = io.BytesIO()
    figure.savefig(target, format="png", metadata={"Software": None})  # the same figures give the same bytes
    return target.getvalue()


def _points(line: Line, shift: float) -> tuple[list[float], list[float], list[float], list[float]]:
    """Places, values, and how far the interval reaches below and above each."""
    there = [(index, item) for index, item in enumerate(line.rounds) if item.value is not None]
    x = [index + shift for index, _ in there]
    y = [float(item.value or 0) for _, item in there]
    below = [value - (item.low if item.low is not None else value) for value, (_, item) in zip(y, there, strict=True)]
    above = [(item.high if item.high is not None else value) - value for value, (_, item) in zip(y, there, strict=True)]
    return x, y, [max(0.0, size) for size in below], [max(0.0, size) for size in above]
