"""The narrow interface between collections and whatever finds near vectors.

An index knows image ids, contents' hashes and vectors, and nothing of files, protobuf or models. Rows are numbers that
mean something inside one `View` alone; a view never changes, so that a search sees one revision from beginning to end
while the writer goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

HASH_BYTES = 32


@dataclass(frozen=True)
class Entries:
    """M images: `numbers` (M,) int64 from the record, image ids, `hashes` (M, 32) uint8 SHA-256, `vectors` (M, D)
    float32 of unit length."""

    numbers: Rows
    ids: list[str]
    hashes: NDArray[np.uint8]
    vectors: Floats

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Change:
    """What a transaction of the record came to: ids whose image is gone or replaced, then the images that are new."""

    revision: int
    removed: Sequence[str]
    added: Entries


class View(Protocol):
    """The index at one revision. All methods may be called from several threads; they block, off the event loop."""

    @property
    def revision(self) -> int:
        """The revision of the collection."""

    @property
    def count(self) -> int:
        """The number of images."""

    @property
    def alive(self) -> Mask:
        """(N,) bool: the rows that hold an image. Not to be written to."""

    def ids(self, rows: Rows) -> list[str]:
        """The image ids of rows."""

    def hashes(self, rows: Rows) -> NDArray[np.uint8]:
        """SHA-256 of the contents of rows: (len(rows), 32)."""

    def vectors(self, rows: Rows) -> Floats:
        """The vectors of rows: (len(rows), D)."""

    def nearest(self, query: Floats, k: int) -> tuple[Rows, Floats]:
        """At most k rows with the highest inner product with query (D,), highest first, and these products. They may
        include rows that are not alive."""

    def similarities(self, query: Floats) -> Floats:
        """The inner product of every row with query: (N,), exact, equal to what `nearest` returns."""

    def products(self, probes: Floats, start: int, stop: int) -> Floats:
        """The inner products of probes (P, D) with rows start..stop: (P, stop - start)."""


class Index(Protocol):
    """A changing set of vectors. `apply` belongs to one writer; the rest may be called from any thread."""

    def view(self) -> View:
        """The newest view."""

    def locate(self, ids: Sequence[str]) -> tuple[View, Rows]:
        """The newest view, and the row of each id in it: -1 for ids that it does not hold."""

    def apply(self, change: Change) -> None:
        """Removes and adds; readers see all of the change or nothing of it."""
