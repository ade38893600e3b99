"""The strategies: pure functions from what was said in a session to the next search. A new one is added to `build`."""

from __future__ import annotations

from services.orchestrator.strategies.base import (
    MAX_QUERY_CHARS,
    ChoiceModel,
    Evidence,
    History,
    PastRound,
    SearchPlan,
    Strategy,
    Term,
    Turn,
    merged,
    opening,
)
from services.orchestrator.strategies.fused import FusedParameters, FusedStrategy
from services.orchestrator.strategies.preference import PreferenceParameters, PreferenceStrategy
from services.orchestrator.strategies.rewrite import RewriteParameters, RewriteStrategy
from services.orchestrator.strategies.rocchio import RocchioParameters, RocchioStrategy

__all__ = [
    "MAX_QUERY_CHARS",
    "ChoiceModel",
    "Evidence",
    "FusedParameters",
    "FusedStrategy",
    "History",
    "PastRound",
    "PreferenceParameters",
    "PreferenceStrategy",
    "RewriteParameters",
    "RewriteStrategy",
    "RocchioParameters",
    "RocchioStrategy",
    "SearchPlan",
    "Strategy",
    "Term",
    "Turn",
    "build",
    "merged",
    "opening",
]


def build(
    preference: PreferenceParameters | None = None,
    rocchio: RocchioParameters | None = None,
    fused: FusedParameters | None = None,
) -> dict[str, Strategy]:
    """All strategies by name."""
    strategies: tuple[Strategy, ...] = (
        RewriteStrategy(),
        RocchioStrategy(rocchio or RocchioParameters()),
        PreferenceStrategy(preference or PreferenceParameters()),
        FusedStrategy(fused or FusedParameters()),
    )
    return {strategy.name: strategy for strategy in strategies}
