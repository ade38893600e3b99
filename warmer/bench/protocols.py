"""The rules of a hunt: what is shown, what may be marked, and when it ends. Pure functions over recorded rounds.

`cumulative` is the plain way: a page is displayed, the person marks what is near, and the hunt ends with the find or
with the last round. `reference` is what the reference implementation (situche/multi_modal_query_expansion) does: four
retrievals of 50 candidates, one of which is marked; an early stop when the target ranks among the first ten, or worse
than in the round before. Nothing but what was marked is left out of later rounds there, so a strategy that learns from
images that were *not* marked has nothing to learn from: compare such strategies under `cumulative`.

What of the reference is not repeated:

- A target that is not in the collection had rank -1, and -1 < 10 counted as a hit. Here such a hunt has failed.
- Ranks came from a list cut at 30,000 images, the rest filled up with the last image. Here ranks are exact.
- A target at rank 11 to 50 was the nearest to itself, so the person marked the very image that they look for, and its
  caption became the query. Here a person does not mark the target: who sees it has found it.
- When all five nearest had been marked before, one of them was marked again. Here the nearest unmarked one is taken;
  four retrievals never get that far.
- The last round made one more rewrite, which nobody searched. Here a round is made only to be searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmer.bench.records import Round

POOL = 50
REFERENCE_SHOWN = 10
REFERENCE_ROUNDS = 3


@dataclass(frozen=True)
class Protocol:
    """The rules of one hunt.

    Attributes:
        name: ``cumulative`` or ``reference``.
        rounds: of feedback at most, round 0 not counted.
        shown: number of hits that the person looks at; a target among them is found.
        choices: marks are taken from that many hits.
        early_stops: whether the hunt ends when the target ranks under 10, or worse than before.
        hides_page: whether the page that was looked at is left out of later rounds, and not only what was marked.
    """

    name: str
    rounds: int
    shown: int
    choices: int
    early_stops: bool
    hides_page: bool

    @property
    def page_size(self) -> int:
        """Hits that a round must deliver."""
        return max(self.shown, self.choices)

    def seen(self, displayed: Sequence[str], marked: Sequence[str]) -> tuple[str, ...]:
        """The images to name as displayed, all marked ones among them: evidence, and left out later."""
        return tuple(dict.fromkeys((*displayed, *marked))) if self.hides_page else tuple(marked)

    def stop(self, rounds: Sequence[Round]) -> str:
        """Why the hunt ends with the last of these rounds; empty when it goes on. See `records.Hunt.stopped`."""
        last = rounds[-1]
        if self.early_stops and last.rank is not None and last.rank <= REFERENCE_SHOWN:
            return "rank-under-10"
        if is_find(last):
            return "found"
        if self.early_stops and len(rounds) > 1 and _is_worse(rounds[-2].rank, last.rank):
            return "rank-worse"
        return "rounds" if len(rounds) > self.rounds else ""


def cumulative(*, shown: int, rounds: int, from_pool: bool = False) -> Protocol:
    """No other stop than the find. `from_pool`: marks are taken from the first 50 hits, the page among them."""
    choices = max(POOL, shown) if from_pool else shown
    return Protocol("cumulative", rounds, shown, choices, early_stops=False, hides_page=True)


def reference() -> Protocol:
    """The reference implementation's."""
    return Protocol("reference", REFERENCE_ROUNDS, REFERENCE_SHOWN, POOL, early_stops=True, hides_page=False)


def is_find(round: Round) -> bool:
    """Whether a target was displayed in the round."""
    return round.position is not None and round.position <= len(round.displayed)


def _is_worse(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now > before
