"""Two runs whose difference is known."""

import json

import pytest
from run_kit import hunt, played, write

from warmer.bench.compare import compare
from warmer.errors import InvalidArgument

SETTINGS = {"strategy": "fused", "user": "semantic", "shown": 10, "rounds": 1}


def of_ten(found, **more):
    """Ten hunts, the first so many of which find theirs in round 1."""
    return [
        hunt(
            f"q{number}",
            [(50, None), (5, 5)] if number < found else [(50, None)] * 2,
            target=f"t{number}",
            found=1 if number < found else None,
            **more,
        )
        for number in range(10)
    ]


def test_the_difference_is_b_minus_a(tmp_path):
    a = write(tmp_path / "a.jsonl", of_ten(3, strategy="rewrite"), settings=SETTINGS | {"strategy": "rewrite"})
    b = write(tmp_path / "b.jsonl", of_ten(8), settings=SETTINGS)
    comparison = compare(a, b)
    (arm,) = comparison.arms
    assert [one.value for one in arm.a["hits@10"]] == [0, 0.3]
    assert [one.value for one in arm.b["hits@10"]] == [0, 0.8]
    assert [one.value for one in arm.difference["hits@10"]] == [0, 0.5]
    assert 0 < arm.difference["hits@10"][1].low < 0.5 < arm.difference["hits@10"][1].high
    assert arm.pairs == 10
    assert comparison.warnings == ()
    assert [(one.name, one.a, one.b, one.kind) for one in comparison.differences] == [
        ("strategy", "rewrite", "fused", "expected")
    ]
    text = comparison.text()
    assert "B is b" in text
    assert any(
        line.split("|")[1:3] == [" Hits@10           ", " 1     "] and "+.500 [" in line for line in text.splitlines()
    )
    found = json.loads(comparison.json())
    assert found["arms"][0]["difference"]["hits@10"][1]["value"] == 0.5
    assert found["warnings"] == []


def test_each_difference_is_named(tmp_path):
    a = write(tmp_path / "a.jsonl", of_ten(3), settings=SETTINGS, models={"embedder": "compact@1"})
    b = write(
        tmp_path / "b.jsonl",
        of_ten(3, user="visual"),
        settings=SETTINGS | {"user": "visual", "shown": 5, "comment": "caption"},
        models={"embedder": "blip@2"},
        images=99,
    )
    comparison = compare(a, b)
    kinds = {one.name: one.kind for one in comparison.differences}
    assert kinds == {
        "comment": "warning",
        "images": "warning",
        "models.embedder": "expected",
        "shown": "warning",
        "user": "warning",
    }
    assert "shown differs: 10 in A, 5 in B" in comparison.warnings
    assert "Warning: comment differs: empty in A, caption in B." in comparison.text()


def test_only_common_hunts_count_and_failures_are_told(tmp_path):
    a = write(tmp_path / "a.jsonl", of_ten(10)[:8], settings=SETTINGS)
    failed = [hunt("q5", [], target="t5", failure="UNAVAILABLE: away")]
    b = write(tmp_path / "b.jsonl", [*of_ten(10)[6:], *failed], settings=SETTINGS)
    (arm,) = compare(a, b).arms
    assert (arm.pairs, arm.only_a, arm.only_b, arm.failed_a, arm.failed_b) == (3, 5, 2, 0, 1)
    assert arm.difference["hits@10"][1].value == pytest.approx(-1 / 3)
    warnings = compare(a, b).warnings
    assert "main: 5 hunts are in A only and 2 in B only; they are left out" in warnings
    assert any("1 in B; they are misses" in warning for warning in warnings)


def test_every_arm_is_compared_and_a_run_equals_itself(tmp_path):
    path = write(tmp_path / "a.jsonl", [*played(1, "main", 0.6, images=6), *played(2, "next-page", 1.0, images=6)])
    comparison = compare(path, path)
    assert [arm.label_a for arm in comparison.arms] == ["main", "next-page"]
    for arm in comparison.arms:
        assert all(one.value == one.low == one.high == 0 for rounds in arm.difference.values() for one in rounds)


def test_runs_of_other_lengths_are_compared_where_both_are(tmp_path):
    a = write(tmp_path / "a.jsonl", of_ten(3), settings=SETTINGS)
    b = write(tmp_path / "b.jsonl", of_ten(3), settings=SETTINGS | {"rounds": 3})
    comparison = compare(a, b)
    assert len(comparison.arms[0].difference["hits@10"]) == len(comparison.arms[0].b["hits@10"]) == 2
    assert comparison.warnings == ("rounds differs: 1 in A, 3 in B",)


def test_runs_that_cannot_be_compared(tmp_path):
    a = write(tmp_path / "a.jsonl", of_ten(3))
    other = write(tmp_path / "b.jsonl", of_ten(3), dataset="another")
    with pytest.raises(InvalidArgument, match="dataset differs: made-up in a, another in b") as caught:
        compare(a, other)
    assert caught.value.reason == "RUNS_DIFFER"
    assert "dataset differs: made-up in A, another in B" in compare(a, other, force=True).warnings
    with pytest.raises(InvalidArgument) as caught:
        compare(a, write(tmp_path / "c.jsonl", [hunt("other", [(1, 1)])]))
    assert caught.value.reason == "NO_COMMON_HUNTS"
    with pytest.raises(InvalidArgument) as caught:
        compare(a, write(tmp_path / "d.jsonl", [hunt("q1", [(1, 1)], target="elsewhere")]))
    assert caught.value.reason == "TARGETS_DIFFER"
    with pytest.raises(InvalidArgument) as caught:
        compare(a, tmp_path / "none.jsonl")
    assert caught.value.reason == "NOT_A_RUN"
