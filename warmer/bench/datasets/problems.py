"""The kinds of problems of a dataset, and how they are said: one line a kind, with its number and the first few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from warmer.bench.datasets.base import Problem
from warmer.errors import InvalidArgument

CAPTION_WITHOUT_IMAGE = "caption-without-image"
IMAGE_WITHOUT_CAPTION = "image-without-caption"
BAD_ROW = "bad-row"
EMPTY_CAPTION = "empty-caption"
DUPLICATE_ROW = "duplicate-row"
BAD_IMAGE_NAME = "bad-image-name"  # a file whose path makes no image id, or a folder that cannot be read

_SHOWN = 3
_MAX_SHOWN_CHARACTERS = 160


class Collected(list[Problem]):
    """The problems met so far."""

    def note(self, kind: str, detail: str) -> None:
        """Adds one."""
        self.append(Problem(kind, detail))


def counts(problems: Iterable[Problem]) -> dict[str, int]:
    """Number of problems by kind, the most frequent kind first."""
    return dict(Counter(problem.kind for problem in problems).most_common())


def lines(problems: Sequence[Problem]) -> list[str]:
    """One line for each kind: ``caption-without-image: 24,715 (annotations[0]: no image '000000179765.jpg'; ...)``."""
    shown: dict[str, list[str]] = {}
    for problem in problems:
        details = shown.setdefault(problem.kind, [])
        if len(details) < _SHOWN:
            details.append(problem.detail[:_MAX_SHOWN_CHARACTERS])
    return [
        f"{kind}: {number:,} ({'; '.join([*shown[kind], *(['...'] if number > len(shown[kind]) else [])])})"
        for kind, number in counts(problems).items()
    ]


def bad_dataset(message: str, hint: str = "", *, field: str = "path") -> InvalidArgument:
    """The error of data that cannot be read at all."""
    return InvalidArgument(message, reason="BAD_DATASET", hint=hint, field=field)
