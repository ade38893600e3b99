"""`rocchio` and `fused` against a small independent reading of their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from services.orchestrator.strategies import (
    FusedParameters,
    FusedStrategy,
    History,
    PastRound,
    RocchioParameters,
    RocchioStrategy,
    Term,
    Turn,
    build,
)

START = PastRound("a dog", Turn())
FIRST = Turn(relevant=("a",), irrelevant=("b", "c"), displayed=("a", "b", "c", "d"))
SECOND = Turn(relevant=("e", "b"), comment="it is black", displayed=("e", "b", "f"))


def direction(terms: tuple[Term, ...], texts: dict[str, np.ndarray], images: dict[str, np.ndarray]) -> np.ndarray:
    """The unit query vector of a plan, as the embedder makes it."""
    total = sum(term.weight * (texts[term.text] if term.text else images[term.image_id]) for term in terms)
    return total / np.linalg.norm(total)


def test_rocchio_moves_the_query_as_the_formula_says():
    vectors = np.random.default_rng(0).normal(size=(8, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = dict(zip("abcdef", vectors[:6], strict=True))
    texts = dict(zip(("a dog", "a dog, it is black"), vectors[6:], strict=True))
    strategy = RocchioStrategy(RocchioParameters(0.7, 0.2, 0.1))
    one = strategy.plan(History((START,), FIRST), {}, None)
    wanted = 0.7 * texts["a dog"] + 0.2 * images["a"] - 0.1 * (images["b"] + images["c"]) / 2
    assert np.allclose(direction(one.terms, texts, images), wanted / np.linalg.norm(wanted))
    assert one.excluded == ("a", "b", "c", "d")
    assert one.preferences == ()

    two = strategy.plan(History((START, PastRound(one.query, FIRST)), SECOND), {}, None)
    liked = np.mean([images[id] for id in "aeb"], axis=0)  # b is relevant now: the newest mark counts
    wanted = 0.7 * texts["a dog, it is black"] + 0.2 * liked - 0.1 * images["c"]
    assert np.allclose(direction(two.terms, texts, images), wanted / np.linalg.norm(wanted))


def test_rocchio_without_marks_is_the_next_page():
    plan = RocchioStrategy().plan(History((START,), Turn(displayed=("a", "b"))), {}, None)
    assert [(term.text, term.image_id) for term in plan.terms] == [("a dog", "")]
    assert plan.excluded == ("a", "b")


def test_rocchio_keeps_within_the_terms_of_one_search():
    turn = Turn(relevant=tuple(f"{i}" for i in range(300)), displayed=tuple(f"{i}" for i in range(300)))
    plan = RocchioStrategy().plan(History((START,), turn), {}, None)
    assert len(plan.terms) <= 100
    assert sum(term.weight for term in plan.terms if term.image_id) == pytest.approx(0.1)


def test_fused_gives_every_choice_to_both_choice_models():
    strategy = FusedStrategy()
    assert not strategy.uses_language_models
    plan = strategy.plan(History((START, PastRound("a dog", FIRST)), SECOND), {}, None)
    assert plan.query == "a dog, it is black"
    step = 0.125 / 3  # a, e and b are relevant: the newest mark of an image counts
    assert plan.terms == (Term(text="a dog, it is black"), *(Term(image_id=id, weight=step) for id in "aeb"))
    assert [(e.relevant, e.irrelevant, e.unmarked) for e in plan.preferences] == [
        (("a",), ("b", "c"), ("d",)),
        (("e", "b"), (), ("f",)),
    ]
    assert [choice.similarity for choice in plan.choices] == ["vectors", "learned"]
    assert sum(choice.weight for choice in plan.choices) == pytest.approx(1)


def test_the_rewrite_is_a_term_only_where_it_has_a_weight():
    history = History((START,), FIRST)
    strategy = FusedStrategy(FusedParameters(rewrite_weight=0.5))
    assert strategy.uses_language_models
    step = Term(image_id="a", weight=0.125)
    assert strategy.plan(history, {}, "a black dog").terms == (Term("a dog"), step, Term("a black dog", weight=0.5))
    assert FusedStrategy().plan(history, {}, "a black dog").terms == (Term("a dog"), step)


def test_all_strategies_are_there():
    assert list(build()) == ["rewrite", "rocchio", "preference", "fused"]
