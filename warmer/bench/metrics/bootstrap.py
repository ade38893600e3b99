"""Intervals: the percentile bootstrap over clusters, for many columns at once.

The clusters are drawn with replacement, as many as there are, and a cluster brings all its hunts (Field and Welsh 2007,
"Bootstrapping clustered data"). Every column sees the same draws, and the seed is fixed: the same hunts give the same
interval. Where all hunts agree (a share of 0 or 1) the interval has no width, as with any bootstrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95
_DECIMALS = 12
_CHUNK_CELLS = 4_000_000  # of the table of draws that is held at one time

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval. None: no hunt has a value, or (the bounds alone) there is one cluster only."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Sample:
    """Values of hunts in columns, joined by means or medians, of the sample itself or of resamples.

    `columns` is (N, M); NaN is left out of a mean and must not be in a median's column. `medians` says which columns
    are joined by their median: (M,). `clusters` holds the number of each hunt's cluster, from 0: (N,).
    """

    def __init__(self, columns: Array, medians: NDArray[np.bool_], clusters: NDArray[np.int64]) -> None:
        self._medians = np.flatnonzero(medians)
        self._means = np.flatnonzero(~medians)
        self._clusters = clusters
        self.number_of_clusters = int(clusters.max()) + 1 if len(clusters) else 0
        self._sorted = [np.argsort(columns[:, column], kind="stable") for column in self._medians]
        self._columns = columns
        there = np.isfinite(columns[:, self._means])
        self._sums = self._per_cluster(np.where(there, columns[:, self._means], 0.0))
        self._counts = self._per_cluster(there.astype(float))

    def statistics(self, weights: Array) -> Array:
        """Mean or median of each column when cluster c is there `weights[b, c]` times: (B, C) to (B, M)."""
        result = np.full((len(weights), self._columns.shape[1]), np.nan)
        counts = weights @ self._counts
        np.divide(weights @ self._sums, counts, out=counts, where=counts > 0)
        result[:, self._means] = np.where(weights @ self._counts > 0, counts, np.nan)
        for column, order in zip(self._medians, self._sorted, strict=True):
            result[:, column] = self._median(self._columns[order, column], weights[:, self._clusters[order]])
        return result

    def _per_cluster(self, table: Array) -> Array:
        sums = np.zeros((self.number_of_clusters, table.shape[1]))
        np.add.at(sums, self._clusters, table)
        return sums

    @staticmethod
    def _median(ascending: Array, weights: Array) -> Array:
        """The middle of values that are there so many times: (N,), (B, N) to (B,)."""
        reached = np.cumsum(weights, axis=1)
        half = reached[:, -1:] / 2
        lower = (reached < half).sum(axis=1)
        upper = (reached <= half).sum(axis=1)
        middle: Array = (ascending[lower] + ascending[np.minimum(upper, len(ascending) - 1)]) / 2
        return middle


def estimates(sample: Sample) -> list[Estimate]:
    """One for each column."""
    return _intervals(sample.number_of_clusters, [(1.0, sample)])


def differences(a: Sample, b: Sample) -> list[Estimate]:
    """`a` minus `b`, one for each column. Both hold the same clusters in the same order, and see the same draws."""
    return _intervals(a.number_of_clusters, [(1.0, a), (-1.0, b)])


def _intervals(clusters: int, parts: Sequence[tuple[float, Sample]]) -> list[Estimate]:
    def combined(weights: Array) -> Array:
        return np.asarray(sum(sign * sample.statistics(weights) for sign, sample in parts))

    points = combined(np.ones((1, clusters)))[0]
    if clusters < 2:
        return [Estimate(_number(value)) for value in points]
    resampled = np.concatenate([combined(weights) for weights in draws(clusters)])
    tails = (100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2)
    return [_estimate(value, column, tails) for value, column in zip(points, resampled.T, strict=True)]


def draws(clusters: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Array]:
    """How often each cluster is drawn in each resample, in chunks of (B, C), together `resamples` rows."""
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK_CELLS // clusters)
    for begin in range(0, resamples, rows):
        size = min(rows, resamples - begin)
        drawn = random.integers(clusters, size=(size, clusters)) + np.arange(size)[:, None] * clusters
        yield np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters).astype(float)


def _estimate(value: float, resampled: Array, tails: tuple[float, float]) -> Estimate:
    there = resampled[np.isfinite(resampled)]  # a resample may have no hunt with a value
    if not np.isfinite(value) or not len(there):
        return Estimate(_number(value))
    low, high = np.percentile(there, tails)
    return Estimate(_number(value), _number(low), _number(high))


def _number(value: float) -> float | None:
    # How sums are ordered depends on the machine and its threads; without the last digits the figures do not.
    return round(float(value), _DECIMALS) if np.isfinite(value) else None
