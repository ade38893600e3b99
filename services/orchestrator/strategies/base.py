"""What every strategy is given and gives: plain data, so that strategies are pure functions that can be read alone.

A strategy turns the rounds so far, the feedback of this turn and (if it asks for them) captions and a rewrite into a
:class:`SearchPlan`. It does no I/O and knows no protobuf; ``services/orchestrator/conversion.py`` translates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

MAX_QUERY_CHARS = 10_000


@dataclass(frozen=True)
class Term:
    """One weighted part of the query vector; one of `text`, `vector` and `image_id` is set.

    `vector` holds little-endian float32 values of the collection's space. An image that was removed since is left out.
    """

    text: str = ""
    vector: bytes = b""
    weight: float = 1.0
    image_id: str = ""


@dataclass(frozen=True)
class Evidence:
    """What one round's marks say: the person chose `relevant` (or rejected `irrelevant`) among all that were shown.

    `temperature` is tau_u of the choice model, `lapse` the share of choices made at random, in [0, 1).
    """

    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]
    unmarked: tuple[str, ...]
    temperature: float
    lapse: float


@dataclass(frozen=True)
class ChoiceModel:
    """One idea of how people choose: by the images' vectors or by a learned similarity, with tau_u, the share of random
    choices, and the prior probability that it is the right one (any scale)."""

    similarity: Literal["vectors", "learned"]
    temperature: float
    lapse: float
    weight: float = 1.0


@dataclass(frozen=True)
class SearchPlan:
    """A search as a strategy wants it; collection and number of hits are the session's affair.

    `query` is the query text now in force: the next round starts from it. `prior_temperature` is tau_q. Without
    `choices` each element of evidence is judged by the vectors and by its own temperature and lapse.
    """

    query: str
    terms: tuple[Term, ...]
    preferences: tuple[Evidence, ...] = ()
    choices: tuple[ChoiceModel, ...] = ()
    prior_temperature: float = 0.0
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turn:
    """What the person said before one round: marks and comment about the images displayed since the round before.

    `displayed` includes every marked image: who marks an image has seen it.
    """

    relevant: tuple[str, ...] = ()
    irrelevant: tuple[str, ...] = ()
    comment: str = ""
    displayed: tuple[str, ...] = ()

    @property
    def has_marks(self) -> bool:
        """Whether any image was marked."""
        return bool(self.relevant or self.irrelevant)

    @property
    def has_feedback(self) -> bool:
        """Whether anything was said at all; without it the round is the next page."""
        return self.has_marks or bool(self.comment)


@dataclass(frozen=True)
class PastRound:
    """A stored round: the query in force after it and the turn before it."""

    query: str
    turn: Turn


@dataclass(frozen=True)
class History:
    """Everything that was said in a session, this turn included.

    `examples` are the example images that the hunt began with, as terms; `rounds` begins with round 0.
    """

    rounds: tuple[PastRound, ...]
    turn: Turn
    examples: tuple[Term, ...] = field(default=())

    @property
    def query(self) -> str:
        """The query text in force before this turn; empty when the hunt began with an image alone."""
        return self.rounds[-1].query if self.rounds else ""

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All turns, oldest first, this one last."""
        return (*(past.turn for past in self.rounds), self.turn)

    @property
    def seen(self) -> tuple[str, ...]:
        """Ids of all images displayed so far, in order, each once."""
        return merged(*(turn.displayed for turn in self.turns))


class Strategy(Protocol):
    """How feedback becomes the next search."""

    name: str
    uses_language_models: bool  # whether `plan` wants captions and a rewrite when there is feedback

    def plan(self, history: History, captions: Mapping[str, str], rewrite: str | None) -> SearchPlan:
        """The next search.

        Args:
            history: the rounds so far and this turn.
            captions: caption by image id, of the marked images that have one.
            rewrite: the query that the rewriter made, None where none was needed or wanted.
        """
        ...


def opening(text: str, examples: Iterable[Term]) -> SearchPlan:
    """Round 0, the same under every strategy: the text and the example image, each a term of its own."""
    return SearchPlan(query=text, terms=terms_of(text, tuple(examples)))


def terms_of(text: str, examples: tuple[Term, ...]) -> tuple[Term, ...]:
    """The text, if there is any, followed by the example images."""
    return ((Term(text=text), *examples)) if text else examples


def merged(*groups: Iterable[str]) -> tuple[str, ...]:
    """All ids in order, each once."""
    return tuple(dict.fromkeys(id for group in groups for id in group))
