"""What a run is worth: metrics by round with intervals, paired differences, and how its rounds went."""

from warmer.bench.metrics.bootstrap import Estimate
from warmer.bench.metrics.figures import ByRound, Difference, figures, paired, paired_difference, paired_differences
from warmer.bench.metrics.operation import Latency, Operation, operation
from warmer.bench.metrics.series import ARMS, CONTROLS, MAIN, Run, Series, load_run, load_runs
from warmer.bench.metrics.values import Metric, metrics

__all__ = [
    "ARMS",
    "CONTROLS",
    "MAIN",
    "ByRound",
    "Difference",
    "Estimate",
    "Latency",
    "Metric",
    "Operation",
    "Run",
    "Series",
    "figures",
    "load_run",
    "load_runs",
    "metrics",
    "operation",
    "paired",
    "paired_difference",
    "paired_differences",
]
