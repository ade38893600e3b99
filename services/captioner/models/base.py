"""What the captioner asks of a captioning model, so that its servicer need not know which library runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.common.decoding import Resize


@dataclass(frozen=True)
class CaptionText:
    """One caption: a sentence, and the number of tokens that the model wrote for it."""

    text: str
    tokens: int


class CaptionModel(Protocol):
    """A model that describes images. Not thread-safe: one call at a time."""

    id: str
    """Name and version or content hash; captions of two models must not be mixed."""
    backend: str
    """What loaded it, e.g. `compact`."""
    prompt_version: str
    """Version of the prompt; empty for a model without one."""
    max_tokens: int
    """Longest caption, in tokens."""
    resize: Resize
    """How images are resized before they come to the model."""

    def caption(self, pixels: Sequence[np.ndarray], on_text: Callable[[int, str], None]) -> list[CaptionText]:
        """Describes a batch of images, one sentence each, in order.

        Args:
            pixels: images, (H, W, 3) uint8 RGB, resized by `resize`.
            on_text: gets pieces of the caption of image `index` while it is written, from the calling thread. Models
                that know their words only at the end (beam search) never call it.
        """
        ...
