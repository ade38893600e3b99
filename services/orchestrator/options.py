"""What the orchestrator takes from the settings, plus the numbers that are its own, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.settings import Settings
from services.orchestrator.strategies import FusedParameters, PreferenceParameters, RocchioParameters
from services.orchestrator.strategies.rocchio import CLASSIC, TUNED

MAX_PAGE_SIZE = 1_000
MAX_COMMENT_CHARS = 2_000
MAX_DISPLAY_NAME_CHARS = 200
MAX_REQUEST_ID_CHARS = 128
MAX_MARKS = 1_000
MAX_DISPLAYED = 10_000
MAX_TTL_S = 366 * 86_400


@dataclass(frozen=True)
class StageShares:
    """Which part of the time that is left when a stage begins it may take at most; the rest is for what follows.

    The final search has no share: it takes what is left, and at least `OrchestratorOptions.least_search_s`.
    """

    early_search: float = 0.3
    caption: float = 0.45
    rewrite: float = 0.7


@dataclass(frozen=True)
class OrchestratorOptions:
    """Everything that can differ between two orchestrators.

    Attributes:
        default_strategy: strategy of sessions that name none.
        default_page_size: hits of a round, for sessions that name no number.
        session_ttl_s: seconds that a session is kept after its last change, for sessions that say nothing else.
        caption_ttl_s: seconds that a caption is kept in Redis.
        lease_s: seconds after which a silent owner loses its round.
        round_timeout_s: seconds that a round may take when the caller's deadline is later, or none.
        drain_s: seconds that running rounds get to finish when the service closes.
        shares: how a round's time is divided.
        least_search_s: seconds that the final search gets even when the caller's deadline has passed, so that the
            round is stored and a repeated request finds it.
        min_similarity: least cosine of rewrite and query in embedding space; below it the plain join is used.
        caption_max_edge: longer edge of the images that the captioner is handed, in pixels.
        max_captions: most marked images that are captioned in a round, relevant ones first. A rewrite has at most 60
            words, which is no more than a few captions.
        fetches: most images fetched from the embedder at a time.
        preference: parameters of the `preference` strategy, which also makes the early hits.
        rocchio, fused: parameters of these strategies.
    """

    default_strategy: str = "fused"
    default_page_size: int = 10
    session_ttl_s: float = 604_800.0
    caption_ttl_s: int = 2_592_000
    lease_s: float = 10.0
    round_timeout_s: float = 60.0
    drain_s: float = 10.0
    shares: StageShares = field(default_factory=StageShares)
    least_search_s: float = 5.0
    min_similarity: float = 0.3
    caption_max_edge: int = 384
    max_captions: int = 16
    fetches: int = 8
    preference: PreferenceParameters = field(default_factory=PreferenceParameters)
    rocchio: RocchioParameters = CLASSIC
    fused: FusedParameters = field(default_factory=FusedParameters)


def options_from(settings: Settings) -> OrchestratorOptions:
    """The options that the settings ask for."""
    return OrchestratorOptions(
        default_strategy=settings.default_strategy,
        default_page_size=settings.default_page_size,
        session_ttl_s=settings.session_ttl_s,
        caption_ttl_s=settings.caption_cache_ttl_s,
        lease_s=settings.round_lease_s,
        round_timeout_s=settings.round_timeout_s,
        drain_s=settings.drain_s,
        min_similarity=settings.rewrite_min_similarity,
        caption_max_edge=settings.caption_max_edge,
        preference=PreferenceParameters(
            prior_temperature=settings.prior_temperature,
            choice_temperature=settings.preference_temperature,
            lapse=settings.preference_lapse,
        ),
        rocchio=TUNED if settings.rocchio_weights == "tuned" else CLASSIC,
        fused=FusedParameters(rewrite_weight=settings.fused_rewrite_weight),
    )
