"""Captioning models. `load_captioner` is the one place that knows which backends there are."""

from services.captioner.models.base import CaptionModel, CaptionText
from services.common.settings import Settings

__all__ = ["CaptionModel", "CaptionText", "load_captioner"]


def load_captioner(settings: Settings) -> CaptionModel:
    """Loads the profile's captioning model; takes a second or more and blocks, so call it on a worker thread.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED) when its files are missing.
    """
    from services.captioner.models.compact import CompactCaptioner

    return CompactCaptioner.load(settings)
