"""The plain words in which record, objects, index and servicer speak about collections."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from services.embedder.index.base import Change


@dataclass(frozen=True)
class VectorSet:
    """Vectors of another model than the collection's own; `image_count` images have one."""

    model: str
    dimensions: int
    image_count: int


@dataclass(frozen=True)
class CollectionInfo:
    """The collection's own row. Times are microseconds since 1970, UTC. `token` is a random mark of this revision."""

    id: str
    model: str
    dimensions: int
    description: str
    revision: int
    token: int
    image_count: int
    content_bytes: int
    create_us: int
    update_us: int
    vector_sets: tuple[VectorSet, ...] = ()

    def vector_set(self, model: str) -> VectorSet | None:
        """The kept vectors of a model, if there are any."""
        return next((found for found in self.vector_sets if found.model == model), None)

    def missing_vectors(self, model: str) -> int:
        """How many images have no vector of this model."""
        if model == self.model:
            return 0
        found = self.vector_set(model)
        return self.image_count - (found.image_count if found else 0)


@dataclass(frozen=True)
class Facts:
    """What decoding says of a content: media type, and the size of the upright image in pixels."""

    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class ImageInfo:
    """An image of a collection. `sha256` is the 32 raw bytes."""

    image_id: str
    sha256: bytes
    facts: Facts
    size_bytes: int
    source: str
    create_us: int


@dataclass(frozen=True)
class Without:
    """Narrows a list to images that lack something: a caption of a model and prompt, a vector of a model. What is
    empty narrows nothing."""

    captions_of: str = ""
    prompt_version: str = ""
    vectors_of: str = ""


@dataclass(frozen=True)
class Add:
    """Adds or replaces an image.

    `facts` is None when the content is believed to be known already; then facts and vector are taken from another
    image of the same content, and if there is none, the outcome is MISSING. `vector` is (D,) float32 of unit length;
    one without facts is the caller's, and waits for them. `staged` is a file of the object store that holds the
    content; without one, `content` is written if the store lacks it.
    """

    image_id: str
    sha256: bytes
    content: bytes
    source: str
    facts: Facts | None = None
    vector: np.ndarray | None = None
    staged: Path | None = None


@dataclass(frozen=True)
class Remove:
    """Removes an image."""

    image_id: str


@dataclass(frozen=True)
class ImageCaption:
    """Keeps a caption of an image's content, in place of the one of this model and prompt. `sha256` is 32 raw bytes."""

    image_id: str
    sha256: bytes
    text: str
    model: str
    prompt_version: str
    tokens: int


@dataclass(frozen=True)
class ImageVector:
    """Keeps a vector that another model made of an image: little-endian float32 bytes. `sha256` is 32 raw bytes."""

    image_id: str
    sha256: bytes
    model: str
    vector: bytes

    @property
    def dimensions(self) -> int:
        """Length of the vector."""
        return len(self.vector) // 4


@dataclass(frozen=True)
class ForgetVectors:
    """Forgets the kept vectors of a model."""

    model: str


Operation = Add | Remove | ImageCaption | ImageVector | ForgetVectors


class Outcome(Enum):
    """What became of an operation."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    ABSENT = "absent"  # there was nothing to remove or to forget
    MISSING = "missing"  # nothing was done, nor with the operations after it: facts and vector are needed after all
    KEPT = "kept"
    STALE = "stale"  # the image is gone, or its content is another
    OTHER_LENGTH = "other length"  # the model's other vectors are not as long
    FORGOTTEN = "forgotten"
    IN_USE = "in use"  # the collection is searched with these vectors


@dataclass(frozen=True)
class Applied:
    """What a transaction did: outcomes by request, what the index must follow, contents that nobody needs any more."""

    outcomes: Sequence[Sequence[Outcome]]
    change: Change
    orphans: Sequence[bytes]
    info: CollectionInfo


@dataclass(frozen=True)
class Written:
    """What a caller is told: outcomes of its operations, up to the first MISSING, and the state that holds them."""

    outcomes: Sequence[Outcome]
    info: CollectionInfo

    @property
    def revision(self) -> int:
        """The revision that holds what was done."""
        return self.info.revision
