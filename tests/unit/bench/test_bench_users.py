from __future__ import annotations

import dataclasses
import random

import pytest
from hunting_kit import a_round

from warmer.bench import users
from warmer.bench.datasets.base import Dataset, Image, Query
from warmer.bench.protocols import cumulative, is_find, reference
from warmer.bench.selection import fingerprint, half_of, mates_of, selected
from warmer.bench.settings import Settings
from warmer.bench.similarity import Labels, Semantic
from warmer.bench.users import Goal
from warmer.errors import InvalidArgument

QUERY = Query("q", "a dog", ("t",), ("a brown dog", "a dog", "a pet runs", "a brown dog", " "))


def chosen(likeness: dict[str, float], *, marks: int = 1, error_rate: float = 0.0, seed: int = 0) -> tuple[str, ...]:
    luck = random.Random(seed)
    return users.chosen("abcd", likeness, marks=marks, error_rate=error_rate, luck=luck)


def test_the_nearest_is_marked() -> None:
    assert chosen({"a": 0.1, "b": 0.9, "c": 0.5}) == ("b",)
    assert chosen({"a": 0.1, "b": 0.9, "c": 0.5}, marks=2) == ("b", "c")
    assert chosen({"a": 0.1}, marks=3) == ("a",)
    assert chosen({"d": 0.5, "c": 0.5}) == ("c",), "among equals the better hit"
    assert chosen({}) == ()


def test_errors_mark_others_at_their_rate() -> None:
    likeness = {"a": 0.1, "b": 0.9, "c": 0.5}
    assert all(chosen(likeness, error_rate=1.0, seed=seed) != ("b",) for seed in range(20))
    assert {chosen(likeness, error_rate=1.0, seed=seed) for seed in range(40)} == {("a",), ("c",), ("d",)}
    wrong = sum(chosen(likeness, error_rate=0.2, seed=seed) != ("b",) for seed in range(2000))
    assert 340 < wrong < 460
    luck = random.Random(0)
    assert users.chosen("a", {"a": 1.0}, marks=1, error_rate=1.0, luck=luck) == ("a",), "there is no other"


def test_errors_depend_on_seed_query_and_round_alone() -> None:
    first = users.generator(0, "q", "marks", 1).random()
    assert first == users.generator(0, "q", "marks", 1).random()
    others = [(1, "q", "marks", 1), (0, "r", "marks", 1), (0, "q", "comments", 1), (0, "q", "marks", 2)]
    assert first not in [users.generator(*key).random() for key in others]


def test_comments_are_other_captions_each_once() -> None:
    assert sorted(users.comments_of(QUERY, 0)) == ["a brown dog", "a pet runs"]
    assert users.comments_of(QUERY, 0) == users.comments_of(QUERY, 0)
    assert len({users.comments_of(QUERY, seed) for seed in range(20)}) == 2


def test_goals() -> None:
    query = Query("q", "a dog", ("a", "b", "gone"), ())
    present, mates = {"a", "b", "c", "d"}, mates_of({"v": ("a", "c"), "w": ("d",)})
    assert users.goal_of(query, present, mates, user="visual", seed=0) == Goal(("a", "b"), ("a", "b"), frozenset("c"))
    goals = {users.goal_of(query, present, mates, user="labels", seed=seed) for seed in range(20)}
    assert goals == {
        Goal(("a",), ("a", "b"), frozenset("bc")),
        Goal(("b",), ("a", "b"), frozenset("ac")),
    }
    assert users.goal_of(query, {"c"}, mates, user="labels", seed=0).targets == ()


async def test_labels_and_semantic_likeness() -> None:
    goal = Goal(("t",), ("t",), frozenset("b"))
    assert await Labels()(goal, "abc") == {"b": 1.0}
    directions = {"t": [1.0, 0.0], "a": [0.6, 0.8], "b": [0.0, 1.0]}
    semantic = Semantic(directions)
    assert await semantic(goal, "abc") == pytest.approx({"a": 0.6, "b": 0.0})
    assert await semantic(Goal(("x",), ("x",), frozenset()), "ab") == {}
    both = await semantic(Goal(("t", "b"), ("t", "b"), frozenset()), "a")
    assert both["a"] == pytest.approx(1.4 / 2**0.5)


def test_the_cumulative_protocol_ends_with_the_find_or_the_last_round() -> None:
    protocol = cumulative(shown=3, rounds=2)
    assert protocol.page_size == 3
    rounds = [a_round(0, rank=4), a_round(1, rank=20)]
    assert protocol.stop(rounds) == ""
    assert protocol.stop([*rounds, a_round(2)]) == "rounds"
    assert protocol.stop([*rounds, a_round(2, rank=3, position=3)]) == "found"
    assert protocol.stop([a_round(0, rank=4, position=4)]) == "", "delivered, but not displayed"
    assert protocol.seen(("a", "b", "c"), ("b",)) == ("a", "b", "c")
    assert cumulative(shown=3, rounds=2, from_pool=True).page_size == 50
    assert cumulative(shown=3, rounds=0).stop(rounds[:1]) == "rounds"


def test_the_reference_protocol_stops_early() -> None:
    protocol = reference()
    assert (protocol.page_size, protocol.shown, protocol.rounds) == (50, 10, 3)

    def rounds(*ranks: int) -> list:
        return [a_round(i, rank=rank, position=rank if rank <= 50 else None, shown=10) for i, rank in enumerate(ranks)]

    assert protocol.stop(rounds(10)) == "rank-under-10"
    assert protocol.stop(rounds(11)) == ""
    assert protocol.stop(rounds(200, 150)) == ""
    assert protocol.stop(rounds(200, 200)) == ""
    assert protocol.stop(rounds(200, 201)) == "rank-worse"
    assert protocol.stop(rounds(200, 100, 50, 40)) == "rounds"
    assert protocol.stop([a_round(0, rank=13, position=9, shown=10)]) == "found"
    assert not is_find(a_round(0, rank=-1)), "a missing target is no hit"
    assert protocol.seen(("a", "b"), ("c",)) == ("c",), "only what was visited is left out"


def test_settings_are_checked() -> None:
    assert Settings().arms == ("main", "next-page")
    assert Settings(comment="caption").arms == ("main", "next-page", "comment-only")
    assert Settings(controls=False, comment="caption").arms == ("main",)
    assert Settings(protocol="reference").protocol_of("next-page") == cumulative(shown=10, rounds=3)
    for wrong in ({"user": "x"}, {"shown": 0}, {"error_rate": 1.5}, {"protocol": "reference", "shown": 5}):
        with pytest.raises(InvalidArgument) as caught:
            Settings(**wrong)
        assert caught.value.reason == "BAD_SETTING"


def test_samples_and_parts(tmp_path) -> None:
    ids = [f"{number:03}.jpg" for number in range(200)]
    queries = tuple(Query(f"{id}#{n}", f"{id} {n}", (id,), ()) for id in ids for n in range(2))
    groups = {"v": tuple(ids[:50])}
    data = Dataset("d", tuple(Image(id, tmp_path / id) for id in ids), queries, {}, groups, ())

    def names(subset: str = "", number: int | None = None, seed: int = 0) -> list[str]:
        return [query.query_id for query in selected(data, subset=subset, queries=number, seed=seed)]

    assert names() == [query.query_id for query in queries]
    assert len(names(number=40)) == 40
    assert set(names(number=20)) < set(names(number=40))
    assert names(number=40) != names(number=40, seed=1)
    halves = [set(names("half:0")), set(names("half:1"))]
    assert halves[0] | halves[1] == set(names()) and not halves[0] & halves[1]
    assert 100 < len(halves[half_of("v")]) < 300
    assert {f"{id}#0" for id in ids[:50]} <= halves[half_of("v")], "frames of one video stay together"
    assert names("even")[:3] == ["000.jpg#0", "000.jpg#1", "002.jpg#0"]
    assert names("odd")[0] == "001.jpg#0"
    (tmp_path / "some.txt").write_text("003.jpg\n\n007.jpg\nother\n")
    assert [*dict.fromkeys(name[:7] for name in names(str(tmp_path / "some.txt")))] == ["003.jpg", "007.jpg"]
    with pytest.raises(InvalidArgument, match=r"no part .* no file"):
        names("half:2")
    before = fingerprint(data, subset=str(tmp_path / "some.txt"), captions=False)
    (tmp_path / "some.txt").write_text("other\n")
    assert fingerprint(data, subset=str(tmp_path / "some.txt"), captions=False) != before
    with pytest.raises(InvalidArgument, match="no queries for the images of"):
        names(str(tmp_path / "some.txt"))
    fewer = dataclasses.replace(data, queries=queries[1:])
    assert fingerprint(data, subset="", captions=False) != fingerprint(fewer, subset="", captions=False)
