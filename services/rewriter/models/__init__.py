"""Language models of the rewriter. `load_language_model` is the one place that knows which backends there are."""

from services.common.settings import Settings
from services.rewriter.models.base import Chat, Generation, LanguageModel, Message, Request

__all__ = ["Chat", "Generation", "LanguageModel", "Message", "Request", "load_language_model"]


def load_language_model(settings: Settings) -> LanguageModel:
    """Loads the language model of the settings; takes seconds to minutes and blocks, so call it on a worker thread.

    Raises FailedPrecondition, or DataLoss where a file of the compact model is damaged; see the backends.
    """
    if settings.rewriter_backend == "openai":
        from services.rewriter.models.openai import OpenAIModel

        return OpenAIModel.load(settings)
    if settings.rewriter_backend == "transformers":
        from services.common.checkpoints import find
        from services.rewriter.models.chat import ChatModel

        checkpoint = find(settings.rewriter_model, settings, "WARMER_REWRITER_MODEL")
        return ChatModel.load(checkpoint, settings.rewriter_precision, settings)
    from services.rewriter.models.compact import load_compact

    return load_compact(settings)
