"""The formulas against a naive reimplementation, written from DESIGN section 5 with plain loops and Python floats."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.embedder.ranking import best, choice_log_likelihood, exact_ranks, query_vector
from warmer.errors import InvalidArgument


def naive_log_likelihood(rel, irr, unm, tau, lapse):
    """For one image t: its similarities to the relevant, irrelevant and unmarked displayed images."""
    total = 0.0
    if rel:
        rivals = irr + unm
        for r in rel:
            field = [math.exp(s / tau) for s in [r, *rivals]]
            total += math.log((1 - lapse) * field[0] / sum(field) + lapse / len(field))
    elif irr:
        for x in irr:
            for u in unm:
                win = math.exp(u / tau) / (math.exp(u / tau) + math.exp(x / tau))
                total += math.log((1 - lapse) * win + lapse / 2)
    return total


@pytest.mark.parametrize("counts", [(1, 0, 9), (2, 3, 5), (0, 2, 8), (0, 3, 0), (3, 0, 0), (0, 0, 7), (1, 4, 0)])
@pytest.mark.parametrize("tau", [0.05, 0.25, 1.0])
@pytest.mark.parametrize("lapse", [0.0, 0.1, 0.9])
def test_choice_log_likelihood(counts, tau, lapse):
    rng = np.random.default_rng(sum(counts))
    parts = [rng.uniform(-1, 1, (n, 30)).astype(np.float32) for n in counts]
    got = choice_log_likelihood(*parts, temperature=tau, lapse=lapse)
    expected = [naive_log_likelihood(*(p[:, t].tolist() for p in parts), tau, lapse) for t in range(30)]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_nothing_marked_adds_nothing():
    nothing, ten = np.zeros((0, 4), np.float32), np.random.default_rng(0).random((10, 4)).astype(np.float32)
    assert not choice_log_likelihood(nothing, nothing, ten, temperature=0.1, lapse=0.1).any()
    assert not choice_log_likelihood(ten, nothing, nothing, temperature=0.1, lapse=0.1).any()


def test_extreme_temperatures_stay_finite():
    ends = np.array([[-1.0, 1.0]], np.float32)
    for lapse in (0.0, 0.1):
        got = choice_log_likelihood(ends, -ends[:0], -ends, temperature=0.001, lapse=lapse)
        assert np.isfinite(got).all()
        assert got[1] > got[0]


def test_query_vector():
    vectors = np.eye(3, dtype=np.float32)
    got = query_vector(vectors, [1.0, 1.0, -0.5])
    np.testing.assert_allclose(got, np.array([1, 1, -0.5]) / 1.5, rtol=1e-6)
    with pytest.raises(InvalidArgument) as caught:
        query_vector(np.stack([vectors[0], vectors[0]]), [2.0, -2.0])
    assert caught.value.reason == "ZERO_QUERY"


def naive_order(scores, candidates, ids):
    rows = [row for row in range(len(scores)) if candidates[row]]
    return sorted(rows, key=lambda row: (-scores[row], ids[row]))


cases = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(cases, st.integers(1, 70), st.randoms(use_true_random=False))
def test_best_and_ranks_with_many_ties(case, k, random):
    scores = np.array([score / 4 for score, _ in case], np.float32)
    candidates = np.array([alive for _, alive in case])
    ids = [f"id-{n:03}" for n in range(len(case))]
    random.shuffle(ids)
    expected = naive_order(scores.tolist(), candidates.tolist(), ids)
    ids_of = lambda rows: [ids[row] for row in rows.tolist()]  # noqa: E731
    assert best(scores, candidates, k, ids_of).tolist() == expected[:k]
    ranks = [expected.index(row) + 1 if row in expected else 0 for row in range(len(case))]
    assert exact_ranks(scores, candidates, np.arange(len(case)), ids_of).tolist() == ranks  # sorted way
    few = np.array([0, len(case) - 1])
    assert exact_ranks(scores, candidates, few, ids_of).tolist() == [ranks[0], ranks[-1]]  # counting way
