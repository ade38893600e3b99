"""Pure numpy: how a query is put together, what marks say about every image, and how images are put in order.

Nothing here knows where vectors are kept. Scores of images with equal vectors are equal whatever row they are in, and
equal scores are ordered by image id, so the order in which images were added never shows.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from warmer.errors import InvalidArgument

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
IdsOf = Callable[[Rows], list[str]]

# Below this share of the weights' sum, what is left of a query is rounding and not direction.
_CANCELLED = 1e-6


def query_vector(vectors: Floats, weights: Sequence[float]) -> Floats:
    """The unit-length sum of `weights[i] * vectors[i]`; vectors is (m, D), each of unit length. Returns (D,).

    Raises InvalidArgument (ZERO_QUERY) when the terms cancel each other out.
    """
    shares = np.asarray(weights, dtype=np.float64)
    total = shares @ vectors.astype(np.float64)
    length = float(np.linalg.norm(total))
    if length <= _CANCELLED * float(np.abs(shares).sum()):
        raise InvalidArgument(
            "the terms of the query cancel each other out, nothing is left to search for",
            reason="ZERO_QUERY",
            field="search.terms",
            hint="change a weight, or leave a term away",
        )
    return (total / length).astype(np.float32)


def choice_log_likelihood(
    relevant: Floats, irrelevant: Floats, unmarked: Floats, *, temperature: float, lapse: float
) -> Floats:
    """What one round of marks says about every image: the log-probability of these marks if it were the target.

    The arguments hold the similarities s(d, t) of the displayed images d (rows) to the N images t (columns): (R, N),
    (X, N) and (U, N). Returns (N,). With tau = `temperature` and e = `lapse`, and n = 1 + X + U::

        for each relevant r:
            log( (1 - e) * exp(s_r / tau) / (exp(s_r / tau) + sum over U and X of exp(s / tau)) + e / n )
        if none is relevant, for each irrelevant x and each unmarked u:
            log( (1 - e) * exp(s_u / tau) / (exp(s_u / tau) + exp(s_x / tau)) + e / 2 )

    Nothing marked adds nothing. PicHunter (Cox et al. 2000, https://doi.org/10.1109/83.817596) with Luce's choice
    axiom; the lapse mixes in a choice at random among the n (or 2) images of that choice.
    """
    total = np.zeros(relevant.shape[1], dtype=np.float32)
    scale = np.float32(1.0 / temperature)
    if len(relevant):
        others = np.concatenate([irrelevant, unmarked]) * scale  # (X + U, N)
        if not len(others):
            return total  # a choice among one says nothing
        rivals = _log_sum_exp(others)
        for chosen in relevant:
            total += _log_win(rivals - chosen * scale, lapse, 1 + len(others))
        return total
    for loser in irrelevant:
        for winner in unmarked:
            total += _log_win((loser - winner) * scale, lapse, 2)
    return total


def mixed(logs: Floats, weights: Sequence[float]) -> Floats:
    """log of the mixture of K likelihoods: logs (K, N), weights (K,) of any positive scale -> (N,)."""
    shares = np.asarray(weights, dtype=np.float64)
    mixture: Floats = _log_sum_exp(logs + np.log(shares / shares.sum()).astype(np.float32)[:, None])
    return mixture


def _log_sum_exp(values: Floats) -> Floats:
    """log of the sum of exp over the rows: (m, N) -> (N,)."""
    highest = values.max(axis=0)
    sums: Floats = np.exp(values - highest).sum(axis=0, dtype=np.float32)
    total: Floats = highest + np.log(sums)
    return total


def _log_win(lead: Floats, lapse: float, rivals: int) -> Floats:
    """log((1 - lapse) / (1 + exp(lead)) + lapse / rivals), where lead is by how much the others are ahead. (N,)."""
    if lapse == 0:
        return -(np.maximum(lead, 0) + np.log1p(np.exp(-np.abs(lead))))
    odds = np.exp(np.minimum(lead, np.float32(80)))  # exp(80) still fits in float32, and its share is 0 all the same
    chosen: Floats = np.log(np.float32(1 - lapse) / (1 + odds) + np.float32(lapse / rivals))
    return chosen


def best(scores: Floats, candidates: Mask, k: int, ids_of: IdsOf) -> Rows:
    """The at most `k` candidates with the highest scores, best first, equal scores by image id.

    scores (N,), candidates (N,) bool. Returns row numbers. Costs O(N), not O(N log N).
    """
    rows: Rows = np.flatnonzero(candidates)
    if k < rows.size:
        among = scores[rows]
        threshold = np.partition(among, rows.size - k)[rows.size - k]
        above, tied = rows[among > threshold], rows[among == threshold]
        room = k - above.size
        rows = np.concatenate([above, _by_id(tied, ids_of)[:room] if tied.size > room else tied])
    return in_order(rows, scores[rows], ids_of)


def in_order(rows: Rows, scores: Floats, ids_of: IdsOf) -> Rows:
    """`rows` sorted by falling score, equal scores by image id; scores[i] belongs to rows[i]."""
    if np.unique(scores).size < scores.size:
        order = np.argsort(np.array(ids_of(rows), dtype=object), kind="stable")
        rows, scores = rows[order], scores[order]
    return rows[np.argsort(-scores, kind="stable")]


def _by_id(rows: Rows, ids_of: IdsOf) -> Rows:
    return rows[np.argsort(np.array(ids_of(rows), dtype=object), kind="stable")]


def exact_ranks(scores: Floats, candidates: Mask, targets: Rows, ids_of: IdsOf) -> Rows:
    """The rank of each target row among the candidates: 1 for the best; 0 for a target that is no candidate.

    It is the place that the target has in `best` with k = N: equal scores are ordered by image id. (T,) -> (T,).
    """
    pool: Rows = np.flatnonzero(candidates)
    among, wanted = scores[pool], scores[targets]
    higher, equal = _count(among, wanted)
    ranks: Rows = np.where(candidates[targets], 1 + higher, 0)
    shared = candidates[targets] & (equal > 1)
    for value in np.unique(wanted[shared]):
        place = {int(row): index for index, row in enumerate(_by_id(pool[among == value], ids_of))}
        for index in np.flatnonzero(shared & (wanted == value)):
            ranks[index] += place[int(targets[index])]
    return ranks


def _count(among: Floats, wanted: Floats) -> tuple[Rows, Rows]:
    """For each wanted score, how many scores are higher and how many are equal. (N,), (T,) -> (T,), (T,)."""
    if wanted.size <= 8:  # a few passes cost less than sorting
        higher = [np.count_nonzero(among > score) for score in wanted]
        equal = [np.count_nonzero(among == score) for score in wanted]
        return np.array(higher, dtype=np.int64), np.array(equal, dtype=np.int64)
    ordered = np.sort(among)
    left, right = np.searchsorted(ordered, wanted, side="left"), np.searchsorted(ordered, wanted, side="right")
    return (among.size - right).astype(np.int64), (right - left).astype(np.int64)
