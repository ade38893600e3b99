"""What an encoder can do beside embedding, where its model has a matching head. Asked about here and nowhere else."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Matcher(Protocol):
    """Reads an image and words together, and says how well they match: slower than two embeddings, and better.

    The service calls `match` from a thread of its own, beside the two that embed.
    """

    @property
    def can_rerank(self) -> bool:
        """Whether the loaded weights have the matching head; without it `match` must not be called."""

    def match(self, text: str, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of "image and words match" for one text and N >= 1 images, each (H, W, 3) uint8 RGB as the encoder's
        `resize` says. Returns (N,) float32."""


def matcher_of(encoder: object) -> Matcher | None:
    """The encoder as a Matcher, or None when it cannot re-rank."""
    return encoder if isinstance(encoder, Matcher) and encoder.can_rerank else None
