"""What a collection keeps beside its images: captions made ahead of time, and vectors of other models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warmer.v1 import embedder_pb2


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """A caption of an image, made ahead of time.

    Attributes:
        image_id: the image.
        sha256: of the content that was captioned, lower-case hex.
        text: the sentence.
        model: identity of the model that wrote it.
        prompt_version: version of the prompt; empty for a model without one.
        tokens: number of tokens written.
    """

    image_id: str
    sha256: str
    text: str
    model: str
    prompt_version: str = ""
    tokens: int = 0

    @classmethod
    def from_proto(cls, message: embedder_pb2.ImageCaption) -> ImageCaption:
        """From ``warmer.v1.ImageCaption``."""
        return cls(
            message.image_id, message.sha256, message.text, message.model, message.prompt_version, message.tokens
        )


@dataclass(frozen=True, slots=True)
class ImageVector:
    """A vector that another model made of an image.

    Attributes:
        image_id: the image.
        sha256: of the content that was embedded, lower-case hex.
        vector: (D,) float32 of unit length.
    """

    image_id: str
    sha256: str
    vector: np.ndarray[Any, np.dtype[np.float32]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class VectorSet:
    """The vectors of one model, kept beside those that are searched.

    Attributes:
        model: identity of the model.
        dimensions: length of the vectors.
        image_count: number of images that have one; the set is complete when all have.
    """

    model: str
    dimensions: int
    image_count: int

    @classmethod
    def from_proto(cls, message: embedder_pb2.VectorSet) -> VectorSet:
        """From ``warmer.v1.VectorSet``."""
        return cls(message.model, message.dimensions, message.image_count)


@dataclass(frozen=True, slots=True)
class PutCaptionsResult:
    """What ``put_captions`` kept.

    Attributes:
        stored_count: number of captions that were kept, durably.
        stale_image_ids: images that are gone, or whose content is another by now.
    """

    stored_count: int
    stale_image_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PutVectorsResult:
    """What ``put_vectors`` kept.

    Attributes:
        stored_count: number of vectors that were kept, durably.
        stale_image_ids: images that are gone, or whose content is another by now.
        missing_count: images that have no vector of this model yet.
        adopted: whether the collection is searched with the vectors of this model now.
    """

    stored_count: int
    stale_image_ids: tuple[str, ...]
    missing_count: int
    adopted: bool
