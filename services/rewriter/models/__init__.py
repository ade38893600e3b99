"""Language models of the rewriter. `load_language_model` is the one place that knows which backends there are."""

from services.common.settings import Settings
from services.rewriter.models.base import Generation, LanguageModel, Message

__all__ = ["Generation", "LanguageModel", "Message", "load_language_model"]


def load_language_model(settings: Settings) -> LanguageModel:
    """Loads the profile's language model; takes seconds and blocks, so call it on a worker thread.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED or MODEL_DAMAGED).
    """
    from services.rewriter.models.compact import load_compact

    return load_compact(settings)
