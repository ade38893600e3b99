"""The strategies: pure functions from what was said in a session to the next search. A new one is added to `build`."""

from __future__ import annotations

from services.orchestrator.strategies.base import (
    MAX_QUERY_CHARS,
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
from services.orchestrator.strategies.preference import PreferenceParameters, PreferenceStrategy
from services.orchestrator.strategies.rewrite import RewriteParameters, RewriteStrategy

__all__ = [
    "MAX_QUERY_CHARS",
    "Evidence",
    "History",
    "PastRound",
    "PreferenceParameters",
    "PreferenceStrategy",
    "RewriteParameters",
    "RewriteStrategy",
    "SearchPlan",
    "Strategy",
    "Term",
    "Turn",
    "build",
    "merged",
    "opening",
]


def build(preference: PreferenceParameters | None = None) -> dict[str, Strategy]:
    """All strategies by name."""
    strategies: tuple[Strategy, ...] = (RewriteStrategy(), PreferenceStrategy(preference or PreferenceParameters()))
    return {strategy.name: strategy for strategy in strategies}
