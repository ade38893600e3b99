"""The plain words in which record, objects, index and servicer speak about collections."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from services.embedder.index.base import Change


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
class Add:
    """Adds or replaces an image.

    `facts` and `vector` ((D,) float32, unit length) are None when the content is believed to be known already; then
    they are taken from another image of the same content, and if there is none, the outcome is MISSING. `staged` is a
    file of the object store that holds the content; without one, `content` is written if the store lacks it.
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


Operation = Add | Remove


class Outcome(Enum):
    """What became of an operation."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    ABSENT = "absent"  # there was nothing to remove
    MISSING = "missing"  # nothing was done, nor with the operations after it: facts and vector are needed after all


@dataclass(frozen=True)
class Applied:
    """What a transaction did: outcomes by request, what the index must follow, contents that nobody needs any more."""

    outcomes: Sequence[Sequence[Outcome]]
    change: Change
    orphans: Sequence[bytes]
    info: CollectionInfo


@dataclass(frozen=True)
class Written:
    """What a caller is told: outcomes of its operations, up to the first MISSING, and the revision that holds them."""

    outcomes: Sequence[Outcome]
    revision: int
