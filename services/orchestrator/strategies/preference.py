"""Each choice is evidence about the target: PicHunter (Cox et al., IEEE Trans. Image Processing 9(1), 2000).

The query is the prior, ``q . v_t / tau_q``; each round with marks adds the log-likelihood of the person's choice among
what was displayed, after Luce's choice axiom (DESIGN section 5). This module only says what was chosen among what; the
embedder computes the scores, beside the vectors. No language model is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.common.joining import plain_join
from services.orchestrator.strategies.base import History, SearchPlan, Strategy, terms_of
from services.orchestrator.strategies.evidence import MAX_EVIDENCE, evidence_of


@dataclass(frozen=True)
class PreferenceParameters:
    """Parameters of the `preference` strategy.

    Attributes:
        prior_temperature: tau_q; lower trusts the query more.
        choice_temperature: tau_u; lower trusts each choice more.
        lapse: share of choices taken to be made at random, in [0, 1).
        exclude_displayed: whether images that the person has seen are left out of the hits.
        max_evidence: most displayed images in all choices together; the embedder takes 4,096. Older choices, and
            unmarked images at the end of the page, are left out first.
    """

    prior_temperature: float = 0.05
    choice_temperature: float = 0.25
    lapse: float = 0.1
    exclude_displayed: bool = True
    max_evidence: int = MAX_EVIDENCE


@dataclass(frozen=True)
class PreferenceStrategy(Strategy):
    """The original query, joined with each comment, as prior; one element of evidence for each round with marks."""

    parameters: PreferenceParameters = PreferenceParameters()
    name: str = "preference"
    uses_language_models: bool = False

    def plan(self, history: History, captions: Mapping[str, str], rewrite: str | None) -> SearchPlan:
        """See `Strategy.plan`. Captions and rewrite are not used."""
        del captions, rewrite
        query = plain_join(history.query, comment=history.turn.comment) if history.turn.comment else history.query
        return SearchPlan(
            query=query,
            terms=terms_of(query, history.examples),
            preferences=evidence_of(
                history.turns, self.parameters.choice_temperature, self.parameters.lapse, self.parameters.max_evidence
            ),
            prior_temperature=self.parameters.prior_temperature,
            excluded=history.seen if self.parameters.exclude_displayed else (),
        )
