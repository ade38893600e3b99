"""Captioning models. `load_captioner` is the one place that knows which backends there are."""

from services.captioner.models.base import EMPTY_CAPTION, CaptionModel, CaptionText
from services.common.settings import Settings

__all__ = ["EMPTY_CAPTION", "CaptionModel", "CaptionText", "load_captioner"]


def load_captioner(settings: Settings) -> CaptionModel:
    """Loads the captioning model that the settings name; takes seconds and blocks, so call it on a worker thread.

    Raises FailedPrecondition: MODEL_NOT_INSTALLED for the compact model; for the others PROMPT_NOT_FOUND, BAD_PROMPT
    and what `services.common.checkpoints` and the backend say.
    """
    if settings.captioner_backend == "transformers":
        from services.captioner.models.image_text import ImageTextCaptioner

        return ImageTextCaptioner.load(settings)
    if settings.captioner_backend == "openai":
        from services.captioner.models.openai import OpenAICaptioner

        return OpenAICaptioner.load(settings)
    from services.captioner.models.compact import CompactCaptioner

    return CompactCaptioner.load(settings)
