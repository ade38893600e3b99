"""Intervals: against scipy's bootstrap, against brute force, and by how often they hold the truth."""

import random

import numpy as np
import pytest
import scipy.stats
from run_kit import hunt, played, write

from warmer.bench.metrics import figures, load_run, paired_difference, paired_differences
from warmer.bench.metrics.bootstrap import Sample, differences, draws, estimates
from warmer.errors import InvalidArgument


def sample(columns, clusters, medians=None):
    columns = np.asarray(columns, dtype=float).reshape(len(clusters), -1)
    chosen = np.zeros(columns.shape[1], dtype=bool) if medians is None else np.asarray(medians)
    return Sample(columns, chosen, np.asarray(clusters))


def test_the_interval_is_scipys_over_clusters():
    luck = np.random.default_rng(1)
    clusters = np.repeat(np.arange(80), luck.integers(1, 6, size=80))
    values = (luck.random(len(clusters)) < luck.random(80)[clusters]).astype(float)
    sums, counts = np.bincount(clusters, weights=values), np.bincount(clusters)
    expected = scipy.stats.bootstrap(
        (sums, counts),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=5000,
        rng=2,
    ).confidence_interval
    got = estimates(sample(values, clusters))[0]
    assert got.value == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_statistics_of_resamples_are_those_of_the_hunts_repeated():
    luck = np.random.default_rng(3)
    clusters = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4])
    columns = luck.integers(1, 30, size=(9, 2)).astype(float)
    columns[[1, 4], 0] = np.nan
    whole = sample(columns, clusters, medians=[False, True])
    weights = np.concatenate(list(draws(5, resamples=50, seed=7)))
    assert (weights.sum(axis=1) == 5).all()
    for row, got in zip(weights, whole.statistics(weights), strict=True):
        repeated = np.repeat(columns, row[clusters].astype(int), axis=0)
        means = repeated[:, 0][np.isfinite(repeated[:, 0])]
        assert got[0] == pytest.approx(means.mean()) if len(means) else np.isnan(got[0])
        assert got[1] == np.median(repeated[:, 1])


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Hunts of one image are alike here; intervals that took them for independent would hold it far less often."""
    luck = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 5)
    held = naive = 0
    for _ in range(150):
        easy = luck.beta(0.6, 0.4, size=60)  # the mean is .6
        values = (luck.random(300) < easy[clusters]).astype(float)
        one, other = estimates(sample(values, clusters))[0], estimates(sample(values, np.arange(300)))[0]
        held += one.low <= 0.6 <= one.high
        naive += other.low <= 0.6 <= other.high
    assert 0.88 <= held / 150 <= 0.99
    assert naive < held - 15


def test_draws_are_the_same_each_time_and_in_chunks():
    many = list(draws(9000, resamples=1000))
    assert len(many) > 1
    assert sum(len(chunk) for chunk in many) == 1000
    assert all(np.array_equal(*pair) for pair in zip(draws(7), draws(7), strict=True))


def test_one_cluster_has_no_interval():
    got = estimates(sample([0.0, 1.0], [0, 0]))[0]
    assert (got.value, got.low, got.high) == (0.5, None, None)


def test_paired_differences_are_narrower_than_the_arms(tmp_path):
    run = load_run(write(tmp_path / "run.jsonl", [*played(1, "main", 0.8), *played(2, "next-page", 1.0)]))
    main, control = run.series
    one = paired_difference(main, control, "bri", 3)
    a, b = figures(main)["bri"][3], figures(control)["bri"][3]
    assert one.value == pytest.approx(a.value - b.value)
    assert one.high < 0
    assert one.high - one.low < 0.5 * (a.high - a.low)
    assert one.pairs == 60
    everything = paired_differences(main, control)
    assert everything["bri"][3].low == one.low
    assert paired_difference(main, control, "bri") == one  # the last round is the default
    hits = everything["hits@10"][3].value
    assert paired_difference(main, control, "found", 1).value == pytest.approx(hits)  # of the whole hunt, by any round


def test_equal_arms_differ_by_nothing(tmp_path):
    hunts = played(1, "main", 0.5)
    run = load_run(write(tmp_path / "run.jsonl", hunts))
    other = load_run(write(tmp_path / "other.jsonl", random.Random(0).sample(hunts, len(hunts))))
    for rounds in paired_differences(run.series[0], other.series[0]).values():
        assert all((one.value, one.low, one.high) == (0, 0, 0) for one in rounds)


def test_the_same_draws_serve_both_sides():
    luck = np.random.default_rng(5)
    base = luck.random(200)
    a, b = sample(base + 0.25, np.arange(200)), sample(base, np.arange(200))
    one = differences(a, b)[0]
    assert (one.value, one.low, one.high) == pytest.approx((0.25, 0.25, 0.25))


def test_only_common_queries_are_paired_and_failures_stay_in(tmp_path):
    hunts = [
        hunt("a", [(1, 1)], target="x", found=0),
        hunt("b", [(2, 2)], target="y", found=0),
        hunt("c", [(9, 9)], target="z", found=0),
        hunt("a", [(1, 1)], target="x", arm="next-page", failure="UNAVAILABLE: away"),
        hunt("b", [(2, 2)], target="y", arm="next-page", found=0),
        hunt("d", [(9, 9)], target="z", arm="next-page", found=0),
    ]
    main, control = load_run(write(tmp_path / "run.jsonl", hunts)).series
    one = paired_difference(main, control, "hits@10", 0)
    assert (one.value, one.pairs) == (0.5, 2)


@pytest.mark.parametrize(
    ("metric", "round", "reason"),
    [("hits@7", 0, "UNKNOWN_METRIC"), ("hits@10", 4, "UNKNOWN_ROUND"), ("hits@10", -5, "UNKNOWN_ROUND")],
)
def test_metrics_and_rounds_that_are_not_there(tmp_path, metric, round, reason):
    series = load_run(write(tmp_path / "run.jsonl", played(1, "main", 0.5))).series[0]
    with pytest.raises(InvalidArgument) as caught:
        paired_difference(series, series, metric, round)
    assert caught.value.reason == reason


def test_series_that_cannot_be_paired(tmp_path):
    run = load_run(write(tmp_path / "a.jsonl", [hunt("a", [(1, 1)], target="x")])).series[0]
    for number, (other, reason) in enumerate([("b", "NO_COMMON_HUNTS"), ("a", "TARGETS_DIFFER")]):
        against = load_run(write(tmp_path / f"{number}.jsonl", [hunt(other, [(1, 1)], target="y")])).series[0]
        with pytest.raises(InvalidArgument) as caught:
            paired_difference(run, against, "mrr")
        assert caught.value.reason == reason
