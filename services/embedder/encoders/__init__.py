"""Embedding models. `load_encoder` is the one place that knows which backends there are."""

from services.common.settings import Settings
from services.embedder.encoders.base import Encoder, TextEmbeddings

__all__ = ["Encoder", "TextEmbeddings", "load_encoder"]


def load_encoder(settings: Settings) -> Encoder:
    """Loads the encoder of `settings.embedder_backend`. It takes a second or more: call it on a worker thread.

    Raises FailedPrecondition: MODEL_NOT_INSTALLED for compact, else as services/common/checkpoints.py.
    """
    if settings.embedder_backend == "compact":
        from services.embedder.encoders.compact import CompactEncoder

        return CompactEncoder.load(settings)
    if settings.embedder_backend == "blip":
        from services.embedder.encoders.blip import BlipEncoder

        return BlipEncoder.load(settings)
    return _from_checkpoint(settings)


def _from_checkpoint(settings: Settings) -> Encoder:
    """A checkpoint in transformers' layout: BLIP has an encoder of its own, which can re-rank too."""
    from services.common.checkpoints import find
    from services.embedder.encoders.huggingface import HuggingFaceEncoder, model_type

    checkpoint = find(settings.embedder_model, settings, "WARMER_EMBEDDER_MODEL")
    if model_type(checkpoint) == "blip":
        from services.embedder.encoders.blip import BlipEncoder

        return BlipEncoder.from_checkpoint(checkpoint, settings)
    return HuggingFaceEncoder.from_checkpoint(checkpoint, settings)
