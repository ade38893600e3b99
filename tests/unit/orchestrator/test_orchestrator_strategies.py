"""The strategies against an independent reading of DESIGN section 5: what is chosen among what, what is left out."""

from __future__ import annotations

import random

import pytest

from services.orchestrator.strategies import (
    Evidence,
    History,
    PastRound,
    PreferenceParameters,
    PreferenceStrategy,
    RewriteStrategy,
    Term,
    Turn,
    build,
    opening,
)

START = PastRound("a dog", Turn())


def random_session(seed: int) -> list[dict]:
    """Turns as plain sets, each with images of its own, now and then without marks or without comment."""
    rng = random.Random(seed)
    turns = []
    for number in range(rng.randint(1, 5)):
        shown = [f"{number}-{i}" for i in range(rng.randint(2, 8))]
        relevant = rng.sample(shown, rng.randint(0, 2))
        irrelevant = rng.sample([id for id in shown if id not in relevant], rng.randint(0, len(shown) - len(relevant)))
        comment = rng.choice(["", f"comment {number}"])
        turns.append({"D": shown, "R": relevant, "X": irrelevant, "comment": comment})
    return turns


def as_turn(turn: dict) -> Turn:
    return Turn(tuple(turn["R"]), tuple(turn["X"]), turn["comment"], tuple(turn["D"]))


@pytest.mark.parametrize("seed", range(30))
def test_preference_follows_the_formulas(seed):
    session = random_session(seed)
    strategy = PreferenceStrategy(PreferenceParameters(prior_temperature=0.07, choice_temperature=0.3, lapse=0.2))
    rounds, query = [START], "a dog"
    for turn in session[:-1]:
        plan = strategy.plan(History(tuple(rounds), as_turn(turn)), {}, None)
        rounds.append(PastRound(plan.query, as_turn(turn)))
    plan = strategy.plan(History(tuple(rounds), as_turn(session[-1])), {}, None)

    query = ", ".join(["a dog", *(t["comment"] for t in session if t["comment"])])
    assert plan.query == query
    assert plan.terms == (Term(text=query),)
    expected = []
    for turn in session:
        if set(turn["R"]) | set(turn["X"]):
            rest = tuple(id for id in turn["D"] if id not in set(turn["R"]) | set(turn["X"]))
            expected.append(Evidence(tuple(turn["R"]), tuple(turn["X"]), rest, 0.3, 0.2))
    assert list(plan.preferences) == expected
    assert plan.prior_temperature == 0.07
    assert set(plan.excluded) == {id for turn in session for id in turn["D"]}
    assert len(set(plan.excluded)) == len(plan.excluded)


def test_rewrite_searches_by_the_rewrite_alone():
    turn = Turn(("1",), ("2",), "brown", ("1", "2", "3"))
    plan = RewriteStrategy().plan(History((START,), turn), {"1": "a dog on snow"}, "a brown dog on snow")
    assert plan.query == "a brown dog on snow"
    assert plan.terms == (Term(text="a brown dog on snow"),)
    assert plan.preferences == ()
    assert plan.excluded == ("1", "2", "3")


@pytest.mark.parametrize("strategy", build().values(), ids=lambda s: s.name)
def test_the_next_page_keeps_the_search_and_leaves_out_what_was_seen(strategy):
    turn = Turn(displayed=("3", "4"))
    history = History((START, PastRound("a dog, brown", Turn(("1",), (), "brown", ("1", "2")))), turn)
    plan = strategy.plan(history, {}, None)
    assert plan.query == "a dog, brown"
    assert plan.excluded == ("1", "2", "3", "4")
    assert len(plan.preferences) == (1 if strategy.name in ("preference", "fused") else 0)


@pytest.mark.parametrize("strategy", build().values(), ids=lambda s: s.name)
def test_the_example_image_stays_a_term_beside_the_text(strategy):
    example = Term(vector=b"\0" * 8)
    assert opening("", [example]).terms == (example,)
    assert opening("fox", [example]).terms == (Term(text="fox"), example)
    history = History((PastRound("", Turn()),), Turn(comment="snow"), (example,))
    plan = strategy.plan(history, {}, "snow")
    assert plan.terms == (Term(text="snow"), example)


def test_displayed_images_stay_when_the_parameter_says_so():
    strategy = PreferenceStrategy(PreferenceParameters(exclude_displayed=False))
    assert strategy.plan(History((START,), Turn(displayed=("1",))), {}, None).excluded == ()


def test_plans_do_not_depend_on_what_was_planned_before():
    strategy, turn = PreferenceStrategy(), Turn(("1",), (), "", ("1", "2"))
    history = History((START,), turn)
    first = strategy.plan(history, {}, None)
    strategy.plan(History((START,), Turn(("9",), (), "x", ("9",))), {}, None)
    assert strategy.plan(history, {}, None) == first


def test_evidence_is_bounded_and_the_newest_counts():
    strategy = PreferenceStrategy(PreferenceParameters(max_evidence=10))
    turns = [Turn((f"{n}a",), (), "", (f"{n}a", *(f"{n}{i}" for i in range(5)))) for n in range(3)]
    history = History((START, PastRound("a dog", turns[0]), PastRound("a dog", turns[1])), turns[2])
    plan = strategy.plan(history, {}, None)
    assert [(e.relevant, len(e.unmarked)) for e in plan.preferences] == [(("1a",), 3), (("2a",), 5)]
    assert len(plan.excluded) == 18


def test_the_query_does_not_grow_without_end():
    comment = "y" * 2_000
    history = History((PastRound("x " * 4_500, Turn()),), Turn(comment=comment))
    query = PreferenceStrategy().plan(history, {}, None).query
    assert 9_900 < len(query) <= 10_000
    assert query.endswith(comment)  # what was said last is never what is cut
    assert len(RewriteStrategy().plan(history, {}, "z" * 20_000).query) == 10_000
