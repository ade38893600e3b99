"""Rocchio's relevance feedback: the query moves towards what was marked relevant, and away from what was not.

q' = unit(a q0 + b mean(relevant) - c mean(irrelevant)), with q0 the query (joined with each comment) and the means over
all images marked so far (Rocchio 1971, in "The SMART Retrieval System"). Only the newest mark of an image counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.common.joining import plain_join
from services.orchestrator.strategies.base import History, SearchPlan, Strategy, Term, terms_of
from services.orchestrator.strategies.evidence import newest_marks


@dataclass(frozen=True)
class RocchioParameters:
    """Parameters of the `rocchio` strategy.

    Attributes:
        query: a, the weight of the query and the comments.
        relevant: b, the weight of the mean of the images marked relevant.
        irrelevant: c, the weight of the mean of the images marked irrelevant.
        exclude_displayed: whether images that the person has seen are left out of the hits.
    """

    query: float = 0.8
    relevant: float = 0.1
    irrelevant: float = 0.1
    exclude_displayed: bool = True


CLASSIC = RocchioParameters()  # .8, .1, .1, as arXiv 2511.17255 uses them
TUNED = RocchioParameters(query=0.8, relevant=0.2, irrelevant=0.1)  # on one half of flickr8k/val; docs/benchmarks.md


@dataclass(frozen=True)
class RocchioStrategy(Strategy):
    """Moves the query; no language model is needed."""

    parameters: RocchioParameters = CLASSIC
    name: str = "rocchio"
    uses_language_models: bool = False

    def plan(self, history: History, captions: Mapping[str, str], rewrite: str | None) -> SearchPlan:
        """See `Strategy.plan`. Captions and rewrite are not used."""
        del captions, rewrite
        query = plain_join(history.query, comment=history.turn.comment) if history.turn.comment else history.query
        marks = newest_marks(history)
        relevant = [id for id, liked in marks.items() if liked]
        irrelevant = [id for id, liked in marks.items() if not liked]
        weights = self.parameters
        asked = terms_of(query, history.examples)
        scale = weights.query if marks else 1.0  # alone it would change nothing
        terms = [Term(term.text, term.vector, weight=term.weight * scale) for term in asked]
        terms += [Term(image_id=id, weight=weights.relevant / len(relevant)) for id in relevant if weights.relevant]
        terms += [
            Term(image_id=id, weight=-weights.irrelevant / len(irrelevant)) for id in irrelevant if weights.irrelevant
        ]
        return SearchPlan(query=query, terms=tuple(terms), excluded=history.seen if weights.exclude_displayed else ())
