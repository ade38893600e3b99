"""What the SDK gives and takes: frozen dataclasses, so that nobody who uses Warmer needs protobuf.

Names of states, stages, strategies and outcomes are plain lower-case strings (``"ready"``, ``"early_search"``), not
enum classes: a newer server may know more of them than this client, and they go into JSON as they are.
"""

from warmer.types.choices import ChoiceModel, Preference
from warmer.types.events import (
    CaptionDelta,
    CaptionReady,
    EarlyHits,
    Event,
    RewriteDelta,
    RewriteReady,
    RoundReady,
    StageEvent,
)
from warmer.types.images import (
    AddResult,
    Collection,
    FolderProgress,
    FolderReport,
    Image,
    ImageEmbedding,
    Model,
    NewImage,
    RemoveResult,
)
from warmer.types.kept import ImageCaption, ImageVector, PutCaptionsResult, PutVectorsResult, VectorSet
from warmer.types.searches import (
    Hit,
    ImageRank,
    Ranking,
    Search,
    SearchResult,
    StageTiming,
    Term,
    Truncation,
    TruncationWarning,
)
from warmer.types.sessions import Caption, Feedback, Rewrite, Round, SessionInfo, Strategy

__all__ = [
    "AddResult",
    "Caption",
    "CaptionDelta",
    "CaptionReady",
    "ChoiceModel",
    "Collection",
    "EarlyHits",
    "Event",
    "Feedback",
    "FolderProgress",
    "FolderReport",
    "Hit",
    "Image",
    "ImageCaption",
    "ImageEmbedding",
    "ImageRank",
    "ImageVector",
    "Model",
    "NewImage",
    "Preference",
    "PutCaptionsResult",
    "PutVectorsResult",
    "Ranking",
    "RemoveResult",
    "Rewrite",
    "RewriteDelta",
    "RewriteReady",
    "Round",
    "RoundReady",
    "Search",
    "SearchResult",
    "SessionInfo",
    "StageEvent",
    "StageTiming",
    "Strategy",
    "Term",
    "Truncation",
    "TruncationWarning",
    "VectorSet",
]
