"""By what people choose: how like the target each displayed image is, in the eyes of one kind of person.

- `visual`: the cosine of the retrieval embeddings, as stored in the collection. The reference implementation's way; it
  favours strategies that use the same embedding.
- `semantic`: the cosine of what people say of the images: the mean direction of MiniLM's unit vectors of an image's
  human captions. Nothing of the retrieval goes into it. An image without captions is like nothing.
- `labels`: the ground truth. Images that are relevant to the query, or in one group with the target, are alike; all
  others are not, and are never marked on purpose.

Of several targets the mean direction counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from warmer.aio import Client
from warmer.bench import sentences
from warmer.bench.patience import Patience
from warmer.bench.users import Goal
from warmer.types import Search, Term

_REMEMBERED = 200_000


class Likeness(Protocol):
    """How like a person's targets images are: more is nearer; images that cannot be judged are left out."""

    async def __call__(self, goal: Goal, ids: Sequence[str]) -> Mapping[str, float]:
        """Likeness by image id. Raises WarmerError."""


class Visual:
    """Asks the embedder, by one search whose terms are the targets themselves: nothing is embedded anew."""

    def __init__(self, client: Client, collection: str, patience: Patience) -> None:
        self._client = client
        self._collection = collection
        self._patience = patience
        self._known: dict[tuple[str, ...], dict[str, float]] = {}  # queries of one target meet the same images
        self._count = 0

    async def __call__(self, goal: Goal, ids: Sequence[str]) -> Mapping[str, float]:
        """See :class:`Likeness`."""
        if self._count > _REMEMBERED:
            self._known, self._count = {}, 0
        known = self._known.setdefault(goal.targets, {})
        new = [id for id in ids if id not in known]
        if new:
            search = Search(self._collection, tuple(Term(image_id=id) for id in goal.targets))
            ranking = await self._patience("rank", lambda: self._client.rank(search, new))
            known |= {rank.image_id: rank.similarity for rank in ranking.ranks if rank.rank is not None}
            self._count += len(new)
        return {id: known[id] for id in ids if id in known}


class Semantic:
    """Compares the directions of human captions, (384,) unit vectors by image id."""

    def __init__(self, directions: Mapping[str, NDArray[np.float32]]) -> None:
        self._directions = directions

    async def __call__(self, goal: Goal, ids: Sequence[str]) -> Mapping[str, float]:
        """See :class:`Likeness`."""
        of_targets = [self._directions[id] for id in goal.targets if id in self._directions]
        if not of_targets:
            return {}
        target = np.sum(of_targets, axis=0)
        target /= np.linalg.norm(target)
        return {id: float(self._directions[id] @ target) for id in ids if id in self._directions}


class Labels:
    """Knows the ground truth."""

    async def __call__(self, goal: Goal, ids: Sequence[str]) -> Mapping[str, float]:
        """See :class:`Likeness`."""
        return {id: 1.0 for id in ids if id in goal.relevant}


def directions_of(
    captions: Mapping[str, Sequence[str]], cache_dir: Path, show: Callable[[int, int], None]
) -> dict[str, NDArray[np.float32]]:
    """The mean direction of each image's captions, for `Semantic`. Raises as `sentences.embed`."""
    described = {id: texts for id, texts in captions.items() if texts}
    vectors = sentences.embed([text for texts in described.values() for text in texts], cache_dir, show)
    directions: dict[str, NDArray[np.float32]] = {}
    at = 0
    for id, texts in described.items():
        total = vectors[at : at + len(texts)].sum(axis=0)
        directions[id] = total / np.linalg.norm(total)
        at += len(texts)
    return directions
