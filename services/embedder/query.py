"""A search in plain words: what the servicer makes of a SearchSpec, so that scoring knows no protobuf."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

DEFAULT_TOP_K = 10
MAX_TOP_K = 10_000
MAX_RERANK = 1000


@dataclass(frozen=True)
class Term:
    """One weighted part of a query. Which of the others is set says `kind`; `vector` is of any length, not (D,) yet."""

    kind: Literal["text", "image", "image_id", "vector"]
    weight: float
    text: str = ""
    image: bytes = b""
    image_id: str = ""
    vector: np.ndarray | None = None
    skip_missing: bool = False


@dataclass(frozen=True)
class Marks:
    """One round of relevance feedback on displayed images; no id is in two of the three. `temperature` is tau_u."""

    relevant: list[str]
    irrelevant: list[str]
    unmarked: list[str]
    temperature: float
    lapse: float


@dataclass(frozen=True)
class Choice:
    """One idea of how people choose: by what, tau_u, share of random choices, and prior probability (any scale)."""

    similarity: Literal["vectors", "learned"]
    temperature: float
    lapse: float
    weight: float


@dataclass(frozen=True)
class Query:
    """A search. `prior_temperature` is tau_q; temperatures are the server's default where the caller set none. Without
    `choices` the marks' own temperature and lapse count, and images are alike by their vectors. `rerank_count` of the
    best hits are re-ranked by the matching head; 0 for none."""

    collection_id: str
    terms: list[Term]
    marks: list[Marks] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    prior_temperature: float = 0.05
    excluded: list[str] = field(default_factory=list)
    min_similarity: float | None = None
    min_revision: int = 0
    top_k: int = DEFAULT_TOP_K
    rerank_count: int = 0

    @property
    def rerank_text(self) -> str:
        """The words that hits are re-ranked by: those of the text term with the greatest weight, or the first of those.
        Empty without a text term of positive weight: what pushes away is not what an image should match."""
        texts = [term for term in self.terms if term.kind == "text" and term.weight > 0]
        return max(texts, key=lambda term: term.weight).text if texts else ""
