"""Metrics against numbers worked out by hand, and against a second, slow way to compute them."""

import math
import random
from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from run_kit import hunt, played, round_, write

from warmer.bench.metrics import figures, load_run, load_runs, operation
from warmer.bench.metrics.values import best_log_rank_integral, metrics, values
from warmer.errors import InvalidArgument

HUNTS = [
    hunt("a", [(12, 12), (15, 4)], target="x", found=1),
    hunt("b", [(3, 3)], target="y", found=0),
    hunt("c", [(1, 1)], target="x", found=0, failure="UNAVAILABLE: the embedder is away"),
    hunt("d", [(8, 8), (40, None), (None, None), (2, 1)], target="z", found=3),
    hunt("e", [], target="gone", failure="TARGET_NOT_INDEXED: no such image"),
]


@pytest.fixture
def series(tmp_path):
    return load_run(write(tmp_path / "run.jsonl", HUNTS)).series[0]


def test_hits_are_cumulative_and_by_place_delivered(series):
    tables = values(series)
    assert tables["hits@10"].tolist() == [[0, 1, 1, 1], [1] * 4, [0] * 4, [1] * 4, [0] * 4]
    assert tables["hits@5"].tolist() == [[0, 1, 1, 1], [1] * 4, [0] * 4, [0, 0, 0, 1], [0] * 4]
    assert tables["hits@1"].tolist() == [[0] * 4, [0] * 4, [0] * 4, [0, 0, 0, 1], [0] * 4]


def test_recall_is_of_the_round_alone_and_the_last_rank_carries_forward(series):
    tables = values(series)
    assert tables["recall@10"].tolist() == [[0] * 4, [1] * 4, [0] * 4, [1, 0, 0, 1], [0] * 4]
    assert tables["mrr"][0] == pytest.approx([1 / 12, 1 / 15, 1 / 15, 1 / 15])
    assert tables["mrr"][3] == pytest.approx([1 / 8, 1 / 40, 0, 1 / 2])
    assert figures(series)["recall@10"][1].value == pytest.approx(1 / 5)  # failed hunts are in the denominator


def test_median_rank_takes_one_more_than_the_images_for_no_rank(series):
    assert series.unranked == 101
    # 12, 3, failed, 8, failed; then 15, 3, failed, 40, failed
    assert [one.value for one in figures(series)["median-rank"]] == [12, 40, 101, 15]


def test_bri_by_hand(series):
    table = values(series)["bri"]
    assert table[0] == pytest.approx([math.log(12)] * 4)  # the best rank stays, the second one is worse
    # best ranks 8, 8, 8, 2
    assert table[3, 3] == pytest.approx((math.log(8) + math.log(2)) / 6 + (math.log(8) + math.log(8)) / 3)
    assert table[4] == pytest.approx([math.log(101)] * 4)


def test_bri_is_the_definition_of_the_paper_and_the_trapezoidal_area():
    ranks = np.random.default_rng(0).integers(1, 1000, size=(50, 6)).astype(float)
    got = best_log_rank_integral(ranks)
    for row, line in zip(got, ranks, strict=True):
        best = [min(line[: index + 1]) for index in range(6)]
        for last in range(1, 6):
            middle = sum(math.log(best[index]) for index in range(1, last)) / last
            paper = math.log(best[0] * best[last]) / (2 * last) + middle
            assert row[last] == pytest.approx(paper)
            assert row[last] == pytest.approx(np.trapezoid(np.log(best[: last + 1])) / last)
        assert row[0] == pytest.approx(math.log(best[0]))


def test_rounds_to_success_are_of_those_found(series):
    found = figures(series)
    assert found["found"][0].value == pytest.approx(3 / 5)
    assert found["rounds-to-success"][0].value == pytest.approx((1 + 0 + 3) / 3)


def test_nothing_found_has_no_rounds_to_success(tmp_path):
    run = load_run(write(tmp_path / "run.jsonl", [hunt("a", [(90, None)] * 4), hunt("b", [], failure="X: y")]))
    found = figures(run.series[0])
    assert found["rounds-to-success"][0].value is None
    assert found["hits@10"][3].value == 0


def test_several_relevant_images_by_hand(tmp_path):
    rounds = (round_(0, 2, 2, hits=["n1", "x", "n2", "y"]), round_(1, 1, 1, hits=["z", "n1", "n2", "n3"]))
    one = hunt("a", [], rounds=rounds, targets=("x", "y", "z"), found=1)
    tables = values(load_run(write(tmp_path / "run.jsonl", [one])).series[0])
    assert tables["precision@5"][0] == pytest.approx([2 / 5, 1 / 5, 1 / 5, 1 / 5])
    assert tables["set-recall@5"][0, :2] == pytest.approx([2 / 3, 1 / 3])
    assert tables["f1@5"][0, :2] == pytest.approx([2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3), 0.25])
    assert tables["map"][0, :2] == pytest.approx([(1 / 2 + 2 / 4) / 3, 1 / 3])
    assert tables["mrr-delivered"][0, :2] == pytest.approx([1 / 2, 1])
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert tables["ndcg@5"][0, :2] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 1 / ideal])


def test_lists_against_a_second_implementation(tmp_path):
    luck = random.Random(0)
    pool = [f"image{number}" for number in range(30)]
    hunts = []
    for number in range(40):
        targets = tuple(luck.sample(pool, luck.randint(1, 5)))
        rounds = tuple(round_(index, 1, None, hits=luck.sample(pool, luck.randint(0, 20))) for index in range(4))
        hunts.append(hunt(f"q{number:02}", [], rounds=rounds, targets=targets))
    tables = values(load_run(write(tmp_path / "run.jsonl", hunts)).series[0])
    for row, one in enumerate(hunts):
        for column, item in enumerate(one.rounds):
            for name, value in _slow(item.hits, one.targets).items():
                assert tables[name][row, column] == pytest.approx(value), (name, item.hits, one.targets)


def _slow(hits, targets, depth=10):
    flags = [hit in targets for hit in hits]
    precision, recall = sum(flags[:depth]) / depth, sum(flags[:depth]) / len(targets)
    gain = sum(1 / math.log2(place + 1) for place, flag in enumerate(flags[:depth], 1) if flag)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(depth, len(targets)) + 1))
    at_hits = [sum(flags[:place]) / place for place, flag in enumerate(flags, 1) if flag]
    return {
        "precision@10": precision,
        "set-recall@10": recall,
        "f1@10": 2 * precision * recall / (precision + recall) if precision + recall else 0,
        "ndcg@10": gain / ideal,
        "map": sum(at_hits) / len(targets),
        "mrr-delivered": 1 / (flags.index(True) + 1) if any(flags) else 0,
    }


def test_what_is_made_from_ranks_agrees_with_ir_measures_over_whole_lists(tmp_path):
    """Over a list of all images, ranked as if nothing were excluded."""
    hunts = [replace(one, found=None, stopped="rounds") for one in played(0, "main", 0.6)]
    series = load_run(write(tmp_path / "run.jsonl", hunts)).series[0]
    tables = values(series)
    relevant = {one.query_id: {"target": 1} for one in series.hunts}
    last = {one.query_id: one.rounds[-1].rank for one in series.hunts}
    lists = {
        query: {("target" if place == rank else f"n{place}"): -float(place) for place in range(1, 101)}
        for query, rank in last.items()
    }
    rr, success = ir_measures.RR, ir_measures.Success @ 10
    expected = ir_measures.calc_aggregate([rr, success], relevant, lists)
    assert tables["mrr"][:, -1].mean() == pytest.approx(expected[rr])
    assert tables["recall@10"][:, -1].mean() == pytest.approx(expected[success])


def test_the_number_shown_is_a_depth_of_its_own(tmp_path):
    path = write(tmp_path / "run.jsonl", HUNTS, settings={"shown": 3, "rounds": 3})
    series = load_run(path).series[0]
    assert series.depths == (1, 3, 5, 10)
    assert values(series)["hits@3"][:, 0].tolist() == [0, 1, 0, 0, 0]
    assert set(values(series)) == {metric.name for metric in metrics(series.depths)}


def test_rounds_that_nobody_played_are_there(tmp_path):
    series = load_run(write(tmp_path / "run.jsonl", [hunt("a", [(1, 1)], found=0)])).series[0]
    assert values(series)["hits@10"].shape == (1, 4)


def test_order_of_lines_and_duplicates_do_not_matter(tmp_path):
    one = load_run(write(tmp_path / "a.jsonl", HUNTS))
    other = load_run(write(tmp_path / "b.jsonl", [*HUNTS[::-1], HUNTS[0]]))
    assert other.duplicates == 1
    assert figures(one.series[0]) == figures(other.series[0])


def test_arms_and_their_labels(tmp_path):
    hunts = [
        hunt("a", [(1, 1)], arm=arm, strategy=strategy)
        for strategy in ("fused", "rocchio")
        for arm in ("comment-only", "next-page", "main")
    ]
    run = load_run(write(tmp_path / "run.jsonl", hunts))
    assert [run.label(series) for series in run.series][:3] == ["main (fused)", "main (rocchio)", "next-page (fused)"]
    assert [run.label(series) for series in run.controls(run.mains[1])] == [
        "next-page (rocchio)",
        "comment-only (rocchio)",
    ]


def test_names_tell_runs_apart(tmp_path):
    paths = [tmp_path / name / "hunts.jsonl" for name in ("x/fused", "y/fused", "rocchio")]
    runs = load_runs([write(path, HUNTS) for path in paths] + [write(tmp_path / "own.jsonl", HUNTS)])
    assert [run.name for run in runs] == ["fused", "y/fused", "rocchio", "own"]


@pytest.mark.parametrize("text", ["", "no json\n", "[1]\n", '{"version": 1}\n', '{"version": 99}\n', "\xff\xfe"])
def test_files_that_are_no_run(tmp_path, text):
    path = tmp_path / "run.jsonl"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InvalidArgument) as caught:
        load_run(path)
    assert caught.value.reason == "NOT_A_RUN"


def test_a_missing_file_and_a_damaged_line_are_no_run(tmp_path):
    for path in (tmp_path / "none.jsonl", write(tmp_path / "run.jsonl", HUNTS)):
        if path.exists():
            path.write_text(path.read_text() + '{"query_id": "f"}\n')
        with pytest.raises(InvalidArgument, match="cannot be read as a run"):
            load_run(path)


def test_how_rounds_went(tmp_path):
    rounds = (
        round_(0, 50, timings={"search": 0.01, "round": 0.02}),
        round_(1, 40, timings={"search": 0.03, "round": 0.5}, rewrite="a dog", fell_back=True, tokens=7),
        round_(2, 30, timings={"search": 0.05, "round": 0.7}, rewrite="a dog", tokens=5, degraded=("caption",)),
    )
    went = operation(
        load_run(write(tmp_path / "run.jsonl", [hunt("z", [], rounds=rounds, stopped="no-choice"), *HUNTS])).series[0]
    )
    assert went.stops == {"failed": 2, "found": 3, "no-choice": 1}
    assert went.failures == {"TARGET_NOT_INDEXED": 1, "UNAVAILABLE": 1}
    assert (went.rounds, went.tokens, went.rewrites, went.fell_back) == (11, 12, 2, 1)
    assert (went.degraded, went.degraded_rounds) == ({"caption": 1}, 1)
    whole = {(one.stage, one.first): one for one in went.latencies}
    assert whole["round", False].p50 == pytest.approx(0.6)
    assert whole["search", False].p95 == pytest.approx(0.049)
    assert whole["round", True].count == 1
