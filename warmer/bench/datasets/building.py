"""Joins images and captions to a `Dataset`. All layouts end here, so that queries and problems are made in one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Dataset, Image, Query
from warmer.bench.datasets.images import ImageFolder
from warmer.bench.datasets.request import Request

MAX_OTHERS = 50  # captions beside a query's own; more would cost the square of their number


class Builder:
    """Collects captions by key: the id of an image, or the name of a group of images (a video)."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.problems = problems.Collected()
        self._texts: dict[str, dict[str, int]] = {}  # captions of a key, in order, each with its number
        self._numbers: dict[str, int] = {}  # captions met so far by key, unusable ones included
        self._asked: list[tuple[str, str]] = []  # key and caption of each query

    def caption(self, key: str, text: str, where: str, *, asks: bool = True) -> None:
        """A caption of the key; blanks are made single. It becomes a query, unless `asks` is false.

        Numbers count every caption of a key, so that an id stays when another caption is repaired.
        """
        text = " ".join(text.split())
        number = self._numbers.get(key, 0)
        if asks:
            self._numbers[key] = number + 1
        texts = self._texts.setdefault(key, {})
        if not text:
            self.problems.note(problems.EMPTY_CAPTION, f"{where}: the caption of {key!r} is empty")
        elif text in texts:
            if asks:
                self.problems.note(problems.DUPLICATE_ROW, f"{where}: a second time the same caption of {key!r}")
        elif _is_text(text):
            texts[text] = number
            if asks:
                self._asked.append((key, text))
        else:
            self.problems.note(problems.BAD_ROW, f"{where}: the caption of {key!r} is not UTF-8")

    def build(self, name: str, images: Sequence[Image], groups: Mapping[str, tuple[str, ...]] | None = None) -> Dataset:
        """The dataset. With `groups`, captions belong to groups, and all images of the group are right."""
        texts = {key: tuple(found) for key, found in self._texts.items() if found}
        if groups is None:
            captions = texts
        else:
            captions = {image_id: texts[key] for key, ids in groups.items() if key in texts for image_id in ids}
        for image in images:
            if image.image_id not in captions:
                self.problems.note(problems.IMAGE_WITHOUT_CAPTION, image.image_id)
        asked = [self._asked[n] for n in sampled(len(self._asked), self._request.sample, self._request.seed)]
        places = {key: {text: n for n, text in enumerate(found)} for key, found in texts.items()}
        queries = tuple(
            Query(
                query_id=f"{key}#{self._texts[key][text]}",
                text=text,
                targets=groups[key] if groups is not None else (key,),
                others=_others(texts[key], places[key][text]),
            )
            for key, text in asked
        )
        return Dataset(name, tuple(images), queries, captions, groups or {}, tuple(self.problems))


def images_of_split(folder: ImageFolder, elsewhere: set[str]) -> list[Image]:
    """The folder's images but those that the caption file names under another split."""
    return [image for image in folder.images if image.image_id not in elsewhere]


def sampled(available: int, sample: float | None, seed: int) -> list[int]:
    """Numbers of the queries to keep, ascending: a share below 1, or so many; all for None.

    The same numbers as ``DataFrame.sample(frac=sample, random_state=seed)`` of pandas takes, which is how the reference
    implementation samples MSCOCO (a tenth, seed 42).
    """
    if sample is None or available == 0:
        return list(range(available))
    size = round(sample * available) if sample < 1 else min(int(sample), available)
    generator = np.random.RandomState(seed)
    return sorted(generator.choice(available, size=max(size, 1), replace=False).tolist())


def _others(texts: tuple[str, ...], place: int) -> tuple[str, ...]:
    if len(texts) <= MAX_OTHERS + 1:
        return texts[:place] + texts[place + 1 :]
    following = texts[place + 1 : place + 1 + MAX_OTHERS]
    return following + texts[: MAX_OTHERS - len(following)]


def _is_text(text: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in text) if not text.isascii() else True
