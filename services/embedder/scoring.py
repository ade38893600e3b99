"""Runs a search over one view of an index: finds the rows that it names, scores all images, returns the best or ranks.

It blocks and computes on the calling thread alone; searches run beside each other on several threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.embedder.choice import ChoiceSimilarity
from services.embedder.index.base import Floats, Index, Mask, Rows
from services.embedder.query import Choice, Marks, Query, Term
from services.embedder.ranking import best, choice_log_likelihood, exact_ranks, in_order, mixed, query_vector
from warmer.errors import InvalidArgument, NotFound, Unavailable

# Scoring goes block by block, so that its memory is bounded; a multiple of the index's own block.
_BLOCK_ROWS = 16_384
# Asking the index for this many more hits, to make up for those that must not be shown, is cheaper than scoring all.
_SPARE = 400
_RETRY_S = 0.5


@dataclass(frozen=True)
class Found:
    """Hits, best first: K image ids, `scores` and `similarities` (K,), `hashes` (K, 32) SHA-256 of the contents.
    `matches` (K,) holds the matching head's logits, NaN for hits without one; None where nothing was re-ranked."""

    ids: list[str]
    scores: Floats
    similarities: Floats
    hashes: NDArray[np.uint8]
    revision: int
    matches: Floats | None = None


@dataclass(frozen=True)
class Ranks:
    """For each id asked for: `ranks` (T,), 0 for none; `scores` and `similarities` (T,), 0 for unknown ids."""

    ranks: Rows
    scores: Floats
    similarities: Floats
    candidates: int
    revision: int


class _Located:
    """The rows of every id that a search names, found together, so that they belong to one view."""

    def __init__(self, index: Index, query: Query, more: Sequence[str] = ()) -> None:
        named = [term.image_id for term in query.terms if term.kind == "image_id"]
        marked = [id for marks in query.marks for id in (*marks.relevant, *marks.irrelevant, *marks.unmarked)]
        self.view, rows = index.locate([*named, *marked, *query.excluded, *more])
        if query.min_revision > self.view.revision:
            raise _not_yet(query.min_revision, self.view.revision)
        ends = np.cumsum([len(named), len(marked), len(query.excluded)])
        self.terms, marks, self.excluded, self.more = np.split(rows, ends)
        self.there = _check_named([term for term in query.terms if term.kind == "image_id"], self.terms)
        self.excluded = self.excluded[self.excluded >= 0]
        # Evidence about an image that was removed since it was shown is left out: a hunt must outlive a deletion.
        gone = {id for id, row in zip(marked, marks.tolist(), strict=True) if row < 0}
        self.rounds = [_without(round, gone) for round in query.marks] if gone else query.marks
        self.marks = marks[marks >= 0]

    def candidates(self, *, excluding: bool = True) -> Mask:
        """(N,) bool: the rows that may be hits."""
        mask = self.view.alive.copy()
        if excluding:
            mask[self.excluded] = False
        return mask


def search(
    index: Index, query: Query, vectors: Sequence[Floats | None], learned: ChoiceSimilarity | None = None
) -> Found:
    """The best images. `vectors` holds the unit vector of each term, None for terms that name an image; `learned` is
    the similarity that choices may be judged by.

    Raises NotFound (IMAGE_NOT_FOUND), InvalidArgument (ZERO_QUERY), and Unavailable (REVISION_NOT_REACHED) when
    `min_revision` is newer than the index.
    """
    located = _Located(index, query)
    view, direction = located.view, _direction(located, query, vectors)
    if not query.marks:
        hits = _nearest(located, direction, query.top_k)
        if hits is not None:
            rows, scores = hits
            if query.min_similarity is not None:
                keep = scores >= np.float32(query.min_similarity)
                rows, scores = rows[keep], scores[keep]
            return Found(view.ids(rows), scores, scores, view.hashes(rows), view.revision)
    similarities = view.similarities(direction)
    scores = _scores(located, query, similarities, learned)
    candidates = located.candidates()
    if query.min_similarity is not None:
        candidates &= similarities >= np.float32(query.min_similarity)
    rows = best(scores, candidates, query.top_k, view.ids)
    return Found(view.ids(rows), scores[rows], similarities[rows], view.hashes(rows), view.revision)


def rank(
    index: Index,
    query: Query,
    vectors: Sequence[Floats | None],
    ids: Sequence[str],
    *,
    excluding: bool,
    learned: ChoiceSimilarity | None = None,
) -> Ranks:
    """The exact ranks of images under a search, its `top_k` and `min_similarity` aside. Raises as `search`."""
    located = _Located(index, query, ids)
    view, direction = located.view, _direction(located, query, vectors)
    similarities = view.similarities(direction)
    scores = _scores(located, query, similarities, learned)
    candidates = located.candidates(excluding=excluding)
    known = located.more >= 0
    rows = located.more[known]
    ranks = np.zeros(len(ids), np.int64)
    of_ids, scores_of_ids = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.float32)
    ranks[known] = exact_ranks(scores, candidates, rows, view.ids)
    scores_of_ids[known], of_ids[known] = scores[rows], similarities[rows]
    return Ranks(ranks, scores_of_ids, of_ids, int(np.count_nonzero(candidates)), view.revision)


def _direction(located: _Located, query: Query, vectors: Sequence[Floats | None]) -> Floats:
    stored = iter(located.view.vectors(np.maximum(located.terms, 0)))
    there = iter(located.there)
    parts = [
        (next(stored) if vector is None else vector, term.weight, vector is not None or next(there))
        for term, vector in zip(query.terms, vectors, strict=True)
    ]
    kept = [(vector, weight) for vector, weight, known in parts if known]
    if not kept:
        raise _nothing_left()
    return query_vector(np.stack([vector for vector, _ in kept]), [weight for _, weight in kept])


def _nearest(located: _Located, direction: Floats, k: int) -> tuple[Rows, Floats] | None:
    """The hits of a search without marks, or None when scoring everything is the way to find them."""
    view = located.view
    spare = located.excluded.size + (view.alive.size - view.count)
    if spare > _SPARE:
        return None
    rows, products = view.nearest(direction, k + spare + 1)
    keep = view.alive[rows]
    if located.excluded.size:
        keep &= ~np.isin(rows, located.excluded)
    rows, products = rows[keep], products[keep]
    if rows.size > k and products[k] == products[k - 1]:
        return None  # which of the equal ones are hits is a matter of their ids, and not all of them may be here
    rows, products = rows[:k], products[:k]
    order = in_order(np.arange(rows.size), products, lambda places: view.ids(rows[places]))
    return rows[order], products[order]


def _scores(located: _Located, query: Query, similarities: Floats, learned: ChoiceSimilarity | None) -> Floats:
    """similarity + tau_q * log-likelihood of all marks, for every row: (N,)."""
    if not located.marks.size:
        return similarities
    displayed, places = np.unique(located.marks, return_inverse=True)
    vectors = located.view.vectors(displayed)
    plain = (vectors, np.zeros(len(vectors), np.float32))
    known = {"vectors": plain, "learned": learned.probes(vectors) if learned is not None else plain}
    choices: Sequence[Choice | None] = query.choices or [None]
    evidence = np.zeros_like(similarities)
    for start in range(0, similarities.size, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, similarities.size)
        alike = {
            kind: located.view.products(known[kind][0], start, stop) + known[kind][1][:, None]
            for kind in {choice.similarity if choice else "vectors" for choice in choices}
        }
        logs = [
            _evidence(located.rounds, alike[choice.similarity if choice else "vectors"], places, choice)
            for choice in choices
        ]
        weights = [choice.weight if choice else 1.0 for choice in choices]
        evidence[start:stop] = mixed(np.stack(logs), weights) if len(logs) > 1 else logs[0]
    return similarities + np.float32(query.prior_temperature) * evidence


def _evidence(rounds: Sequence[Marks], alike: Floats, places: Rows, choice: Choice | None) -> Floats:
    """The sum of the rounds' log-likelihoods under one choice model (None: as each round says itself): similarities
    (P, N) with P displayed images -> (N,). `places` says which of the P each marked image is, in the order relevant,
    irrelevant, unmarked of each round."""
    total = np.zeros(alike.shape[1], np.float32)
    at = 0
    for marks in rounds:
        ends = np.cumsum([at, len(marks.relevant), len(marks.irrelevant), len(marks.unmarked)]).tolist()
        relevant, irrelevant, unmarked = (alike[places[a:b]] for a, b in pairwise(ends))
        idea = choice or marks
        total += choice_log_likelihood(relevant, irrelevant, unmarked, temperature=idea.temperature, lapse=idea.lapse)
        at = ends[-1]
    return total


def _without(marks: Marks, gone: set[str]) -> Marks:
    def left(ids: list[str]) -> list[str]:
        return [id for id in ids if id not in gone]

    return replace(
        marks, relevant=left(marks.relevant), irrelevant=left(marks.irrelevant), unmarked=left(marks.unmarked)
    )


def _check_named(terms: Sequence[Term], rows: Rows) -> list[bool]:
    """Whether the image of each term that names one is there. Raises NotFound (IMAGE_NOT_FOUND)."""
    there = []
    for term, row in zip(terms, rows.tolist(), strict=True):
        if row < 0 and not term.skip_missing:
            raise NotFound(
                f"the image {term.image_id!r} is not in the collection",
                reason="IMAGE_NOT_FOUND",
                field="search.terms",
                hint="ListImages names those that are; it may have been removed",
            )
        there.append(row >= 0)
    return there


def _nothing_left() -> InvalidArgument:
    return InvalidArgument(
        "all terms of the query name images that are not in the collection any more",
        reason="ZERO_QUERY",
        field="search.terms",
        hint="add a text, an image or a vector",
    )


def _not_yet(wanted: int, reached: int) -> Unavailable:
    return Unavailable(
        f"revision {wanted} is wanted, this server has reached {reached}",
        reason="REVISION_NOT_REACHED",
        hint="ask for a revision that AddImages or RemoveImages returned, or try again",
        retry_after_s=_RETRY_S,
    )


def check_length(vector: np.ndarray, dimensions: int, field: str) -> None:
    """Raises InvalidArgument (DIMENSION_MISMATCH) when a vector is not of the collection's length."""
    if vector.size != dimensions:
        raise InvalidArgument(
            f"the vector has {vector.size} dimensions, the collection has {dimensions}",
            reason="DIMENSION_MISMATCH",
            field=field,
            hint="embed with the collection's model; vectors are little-endian float32",
        )
