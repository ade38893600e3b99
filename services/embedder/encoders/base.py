"""The narrow interface of embedding models, so that the service does not know which one it runs.

A backend is one class with this shape and one line in `load_encoder`. It knows numpy and its own runtime, nothing of
gRPC, collections or FAISS, and can be read and tested by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.common.decoding import Resize


@dataclass(frozen=True)
class TextEmbeddings:
    """`vectors` is (N, D) float32, unit length. `tokens` counts the tokens of each text before truncation, special
    tokens included; a count above the encoder's `max_tokens` says that the rest was not read."""

    vectors: np.ndarray
    tokens: list[int]


class Encoder(Protocol):
    """Embeds texts and images into one space, in which the inner product says how well they fit.

    The service calls `embed_texts` and `embed_images` from two threads at once, each with one batch at a time: searches
    must not wait for indexing.

    Optional attributes, which the service shows where an encoder has them: `precision: str`, the number format that it
    computes in (`fp32`, `fp16` or `bf16`), and `device: str`, where (`cpu`, `cuda:0`).
    """

    @property
    def id(self) -> str:
        """Identity of the model, name and version or hash: vectors of two ids are never compared."""

    @property
    def backend(self) -> str:
        """The profile or backend that loaded it, e.g. `compact`."""

    @property
    def dimensions(self) -> int:
        """D, the length of the vectors."""

    @property
    def max_tokens(self) -> int:
        """Longest text that is read, in tokens; longer ones are cut there."""

    @property
    def resize(self) -> Resize:
        """How images are resized before they are handed over."""

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds N >= 1 texts."""

    def embed_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds N >= 1 images, each (H, W, 3) uint8 RGB as `resize` says. Returns (N, D) float32, unit length."""
