"""What the captioner asks of a captioning model, so that its servicer need not know which library runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services.common.decoding import Resize
from warmer.errors import WarmerError

EMPTY_CAPTION = "EMPTY_CAPTION"
"""Reason of the error of an image of which the model said nothing."""


@dataclass(frozen=True)
class CaptionText:
    """One caption: a sentence, and the number of tokens that the model wrote for it."""

    text: str
    tokens: int


class CaptionModel(Protocol):
    """A model that describes images. Not thread-safe: one call at a time.

    A model may have the attributes `precision` and `device` (as in `warmer.v1.Model`), which the servicer tells, and a
    method `close`, which it calls at the end.
    """

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

    def caption(
        self,
        pixels: Sequence[np.ndarray],
        on_text: Callable[[int, str], None],
        should_stop: Callable[[int], bool] | None = None,
    ) -> Sequence[CaptionText | WarmerError]:
        """Describes a batch of images, one sentence each, in order; a WarmerError in place of one fails it alone.

        Args:
            pixels: images, (H, W, 3) uint8 RGB, resized by `resize`.
            on_text: gets pieces of the caption of image `index` while it is written, from the calling thread. Models
                that know their words only at the end (beam search) call it once, with the whole caption.
            should_stop: asked while captions are written whether nobody waits for that of image `index` any more;
                then it may end anywhere. Models that are quick may not ask.
        """
        ...
