"""The default: words as prior, each choice as evidence, judged by two ideas of how people choose.

As `preference` (PicHunter, Cox et al. 2000), but nobody knows by what a person chooses: some go by looks, which the
retrieval embedding tells well; most by what is to be seen and done, which a learned similarity tells better. So there
are two choice models, and the session's choices themselves say which of them fits (the embedder mixes their
likelihoods). The rewrite can be a term of the query too; its weight is 0 by default, since it was not shown to help on
the compact profile, and then no language model is asked. What every term is worth: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.common.joining import plain_join
from services.orchestrator.strategies.base import ChoiceModel, History, SearchPlan, Strategy, Term, terms_of
from services.orchestrator.strategies.evidence import evidence_of, newest_marks

BY_LOOKS = ChoiceModel(similarity="vectors", temperature=0.05, lapse=0.05, weight=0.1)
BY_CONTENT = ChoiceModel(similarity="learned", temperature=0.1, lapse=0.3, weight=0.9)


@dataclass(frozen=True)
class FusedParameters:
    """Parameters of the `fused` strategy.

    Attributes:
        prior_temperature: tau_q; lower trusts the words more.
        choices: the choice models, with their prior probabilities as weights.
        relevant_weight: weight of the mean of the images marked relevant, beside the query's 1, as in `rocchio`.
        rewrite_weight: weight of the rewrite beside the query's 1. Above 0 captions and a rewrite are made.
        exclude_displayed: whether images that the person has seen are left out of the hits.
    """

    prior_temperature: float = 0.04
    choices: tuple[ChoiceModel, ...] = field(default=(BY_LOOKS, BY_CONTENT))
    relevant_weight: float = 0.125
    rewrite_weight: float = 0.0
    exclude_displayed: bool = True


@dataclass(frozen=True)
class FusedStrategy(Strategy):
    """Words, and a small step towards what was marked relevant, as prior; choices as evidence; the rewrite as a further
    term if wanted."""

    parameters: FusedParameters = field(default_factory=FusedParameters)
    name: str = "fused"

    @property
    def uses_language_models(self) -> bool:  # type: ignore[override]
        """Only where the rewrite counts."""
        return self.parameters.rewrite_weight > 0

    def plan(self, history: History, captions: Mapping[str, str], rewrite: str | None) -> SearchPlan:
        """See `Strategy.plan`. Captions reach the search through the rewrite only."""
        del captions
        query = plain_join(history.query, comment=history.turn.comment) if history.turn.comment else history.query
        terms = terms_of(query, history.examples)
        marks = newest_marks(history)
        relevant = [id for id, liked in marks.items() if liked]
        if self.parameters.relevant_weight:
            terms += tuple(Term(image_id=id, weight=self.parameters.relevant_weight / len(relevant)) for id in relevant)
        if rewrite and self.parameters.rewrite_weight:
            terms += (Term(text=rewrite, weight=self.parameters.rewrite_weight),)
        return SearchPlan(
            query=query,
            terms=terms,
            preferences=evidence_of(history.turns, temperature=0.0, lapse=0.0),  # the choice models have their own
            choices=self.parameters.choices,
            prior_temperature=self.parameters.prior_temperature,
            excluded=history.seen if self.parameters.exclude_displayed else (),
        )
