"""The reference system's way: search by the rewrite alone, which the rewriter made of query, captions and comment.

Score of an image t: ``q . v_t`` with q the unit embedding of the rewrite (and of the example image of round 0, where
there is one, as a term beside it). Displayed images are excluded, as in the reference's protocol: they were seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.orchestrator.strategies.base import MAX_QUERY_CHARS, History, SearchPlan, Strategy, terms_of


@dataclass(frozen=True)
class RewriteParameters:
    """Parameters of the `rewrite` strategy.

    Attributes:
        exclude_displayed: whether images that the person has seen are left out of the hits.
    """

    exclude_displayed: bool = True


@dataclass(frozen=True)
class RewriteStrategy(Strategy):
    """Searches by the rewrite. Without one (no feedback: the next page) the query in force stays."""

    parameters: RewriteParameters = RewriteParameters()
    name: str = "rewrite"
    uses_language_models: bool = True

    def plan(self, history: History, captions: Mapping[str, str], rewrite: str | None) -> SearchPlan:
        """See `Strategy.plan`. Captions reach the search through the rewrite only."""
        del captions
        query = history.query if rewrite is None else rewrite[:MAX_QUERY_CHARS]
        return SearchPlan(
            query=query,
            terms=terms_of(query, history.examples),
            excluded=history.seen if self.parameters.exclude_displayed else (),
        )
