"""Embedding models. `load_encoder` is the one place that knows which backends there are."""

from services.common.settings import Settings
from services.embedder.encoders.base import Encoder, TextEmbeddings

__all__ = ["Encoder", "TextEmbeddings", "load_encoder"]


def load_encoder(settings: Settings) -> Encoder:
    """Loads the encoder of the profile; takes a second or more and blocks, so call it on a worker thread.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED) when its files are missing.
    """
    from services.embedder.encoders.compact import CompactEncoder

    return CompactEncoder.load(settings)
