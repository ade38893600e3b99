"""Collections, images, and what comes of adding or embedding them."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warmer.errors import WarmerError, from_status
from warmer.names import collection_id, image_parts
from warmer.types._convert import enum_name, moment, vectors
from warmer.types.kept import VectorSet
from warmer.v1 import common_pb2, embedder_pb2


@dataclass(frozen=True, slots=True)
class Model:
    """The model behind a service.

    Attributes:
        id: name and version or hash; vectors of two models must not be mixed.
        backend: the profile or backend that loaded it.
        dimensions: length of the vectors; 0 for models that write text.
        prompt_version: version of the prompt; empty for models without one.
        max_tokens: longest text that the model reads.
        precision: number format of the weights, such as ``fp16``; empty where the service does not know.
        device: where it computes, such as ``cuda:0``; empty where the service does not know.
        can_rerank: whether searches may ask for ``rerank``.
    """

    id: str
    backend: str
    dimensions: int
    prompt_version: str
    max_tokens: int
    precision: str = ""
    device: str = ""
    can_rerank: bool = False

    @classmethod
    def from_proto(cls, message: common_pb2.Model) -> Model:
        """From ``warmer.v1.Model``."""
        return cls(
            message.id,
            message.backend,
            message.dimensions,
            message.prompt_version,
            message.max_tokens,
            message.precision,
            message.device,
            message.can_rerank,
        )


@dataclass(frozen=True, slots=True)
class Collection:
    """A searchable set of images, embedded by one model.

    Attributes:
        id: the caller's id.
        model: identity of the embedding model.
        dimensions: length of the vectors.
        distance: how vectors are compared: ``inner_product``.
        image_count: number of images.
        content_bytes: size of the stored files; files with the same bytes count once.
        revision: counts the changes; for ``min_revision`` of a search.
        state: ``ready``, or ``model_mismatch`` when this server's model is another one.
        create_time: when it was created, UTC.
        update_time: when it was last changed, UTC.
        description: free text for people.
        vector_sets: vectors of other models that are kept beside those of ``model``.
    """

    id: str
    model: str
    dimensions: int
    distance: str
    image_count: int
    content_bytes: int
    revision: int
    state: str
    create_time: dt.datetime | None
    update_time: dt.datetime | None
    description: str
    vector_sets: tuple[VectorSet, ...] = ()

    @classmethod
    def from_proto(cls, message: embedder_pb2.Collection) -> Collection:
        """From ``warmer.v1.Collection``."""
        return cls(
            id=collection_id(message.name),
            model=message.model,
            dimensions=message.dimensions,
            distance=enum_name(embedder_pb2.Collection.Distance, message.distance, "DISTANCE_"),
            image_count=message.image_count,
            content_bytes=message.content_bytes,
            revision=message.revision,
            state=enum_name(embedder_pb2.Collection.State, message.state, "STATE_"),
            create_time=moment(message.create_time),
            update_time=moment(message.update_time),
            description=message.description,
            vector_sets=tuple(map(VectorSet.from_proto, message.vector_sets)),
        )


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a collection, without its content.

    Attributes:
        id: the caller's id.
        collection: id of the collection.
        sha256: of the content, lower-case hex.
        media_type: found in the content, e.g. ``image/jpeg``.
        width: in pixels, EXIF orientation applied.
        height: in pixels, EXIF orientation applied.
        size_bytes: size of the content.
        source: where the caller had it from, e.g. the relative path.
        create_time: when it was added, UTC.
    """

    id: str
    collection: str
    sha256: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    source: str
    create_time: dt.datetime | None

    @classmethod
    def from_proto(cls, message: embedder_pb2.Image) -> Image:
        """From ``warmer.v1.Image``."""
        collection, image = image_parts(message.name)
        return cls(
            id=image,
            collection=collection,
            sha256=message.sha256,
            media_type=message.media_type,
            width=message.width,
            height=message.height,
            size_bytes=message.size_bytes,
            source=message.source,
            create_time=moment(message.create_time),
        )


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to add.

    Attributes:
        id: without slash, at most 512 bytes of UTF-8; an id that exists is replaced.
        content: the bytes of the image file, or the path of the file, which is read when its turn comes.
        source: where it comes from; kept, not interpreted.
        vector: (D,) float32 of unit length, if it is embedded already; then it is decoded, but not embedded again.
        vector_model: identity of the model that made ``vector``; must be the collection's.
    """

    id: str
    content: bytes | str | os.PathLike[str]
    source: str = ""
    vector: np.ndarray[Any, np.dtype[np.float32]] | None = field(default=None, compare=False)
    vector_model: str = ""


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of one image.

    Attributes:
        image_id: the id.
        outcome: ``added``, ``replaced``, ``unchanged`` or ``failed``.
        sha256: of the content; empty when it failed.
        source: as it was given.
        revision: of the collection that holds it; 0 when it failed on the client's side.
        error: why it failed, else None.
    """

    image_id: str
    outcome: str
    sha256: str = ""
    source: str = ""
    revision: int = 0
    error: WarmerError | None = None

    @classmethod
    def from_proto(cls, message: embedder_pb2.AddImagesResult, *, revision: int, source: str) -> AddResult:
        """From ``warmer.v1.AddImagesResult``."""
        return cls(
            image_id=message.image_id,
            outcome=enum_name(embedder_pb2.AddImagesResult.Outcome, message.outcome, "OUTCOME_"),
            sha256=message.sha256,
            source=source,
            revision=revision,
            error=from_status(message.status),
        )


@dataclass(frozen=True, slots=True)
class FolderProgress:
    """How far ``add_folder`` has come; given to its ``progress`` function after each image.

    Attributes:
        done: images with a result.
        total: images found in the folder.
        result: the latest result.
    """

    done: int
    total: int
    result: AddResult


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What came of ``add_folder``.

    Attributes:
        added, replaced, unchanged: numbers of images.
        failures: the results of the images that failed, each with its ``error``.
        skipped: number of files that are no images by content nor by name.
        revision: of the collection afterwards; 0 when nothing was sent.
        seconds: wall-clock time.
    """

    added: int
    replaced: int
    unchanged: int
    failures: tuple[AddResult, ...]
    skipped: int
    revision: int
    seconds: float

    @property
    def total(self) -> int:
        """Number of images with a result."""
        return self.added + self.replaced + self.unchanged + len(self.failures)


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """What was removed.

    Attributes:
        removed_count: number of images removed.
        missing_image_ids: ids that were not in the collection.
        revision: of the collection afterwards.
    """

    removed_count: int
    missing_image_ids: tuple[str, ...]
    revision: int

    @classmethod
    def from_proto(cls, message: embedder_pb2.RemoveImagesResponse) -> RemoveResult:
        """From ``warmer.v1.RemoveImagesResponse``."""
        return cls(message.removed_count, tuple(message.missing_image_ids), message.revision)


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """The embedding of one image, or why there is none.

    Attributes:
        vector: (D,) float32 of unit length; None when the image failed.
        error: why it failed, else None.
        model: identity of the model that embedded it.
    """

    vector: np.ndarray[Any, np.dtype[np.float32]] | None
    error: WarmerError | None = field(default=None)
    model: str = ""

    @classmethod
    def from_proto(cls, message: embedder_pb2.ImageEmbedding, dimensions: int, model: str = "") -> ImageEmbedding:
        """From ``warmer.v1.ImageEmbedding``."""
        error = from_status(message.status)
        return cls(None if error else vectors(message.vector, dimensions)[0], error, model)
