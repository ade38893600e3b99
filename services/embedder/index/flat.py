"""Exact search: one float32 matrix, scanned by FAISS's flat inner-product kernels.

Vectors are held once. FAISS reads the matrix in place (`knn_inner_product` is what IndexFlatIP.search runs), and so do
numpy's products for preferences. Rows are only ever appended, and a removed row is marked dead, so a view needs no
lock: the writer works behind the last row that any view knows. When a quarter of the rows is dead they are compacted
into a new matrix, and old views keep the old one alive until their last search ends.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from services.embedder.index.base import HASH_BYTES, Change, Entries, Floats, Mask, Rows

# Rows are allocated in whole blocks, so that matrix products may run over the padding: every row then takes the same
# path through BLAS, and equal vectors get equal products wherever they are.
BLOCK = 1024
_PROBES = 16
_COMPACT_SHARE = 0.25
_COMPACT_MIN = 4 * BLOCK
# FAISS's heap is faster than scanning and partitioning for few results, and slower for many.
_HEAP_MOST = 512


_thread = threading.local()


def _use_one_thread() -> None:
    """Keeps FAISS to the calling thread. OpenMP's setting belongs to each thread, and searches come on many.

    Searches run beside each other; inside one, a second thread makes it slower (measured on busy cores: 7 ms, not 1).
    """
    if not getattr(_thread, "limited", False):
        faiss.omp_set_num_threads(1)
        _thread.limited = True


@dataclass(frozen=True)
class _Columns:
    """The arrays behind views, with room for more rows than any view knows."""

    matrix: Floats
    numbers: Rows
    hashes: NDArray[np.uint8]
    ids: list[str]

    @staticmethod
    def empty(rows: int, dimensions: int) -> "_Columns":
        # Zeros and not empty: untouched pages cost no memory, and products over the padding meet no NaN.
        room = max(1, -(-rows // BLOCK)) * BLOCK
        hashes = np.zeros((room, HASH_BYTES), np.uint8)
        return _Columns(np.zeros((room, dimensions), np.float32), np.zeros(room, np.int64), hashes, [])

    def write(self, start: int, entries: Entries) -> None:
        stop = start + len(entries)
        del self.ids[start:]  # what an earlier write left behind that failed before any view knew it
        self.matrix[start:stop] = entries.vectors
        self.numbers[start:stop] = entries.numbers
        self.hashes[start:stop] = entries.hashes
        self.ids.extend(entries.ids)


class FlatView:
    """An immutable view of a FlatIndex; see `View`."""

    def __init__(self, columns: _Columns, rows: int, alive: Mask, count: int, revision: int) -> None:
        self._columns = columns
        self._rows = rows
        self.alive = alive
        self.count = count
        self.revision = revision

    @property
    def entries(self) -> Entries:
        """Everything that is alive. Copies only if something is dead."""
        columns, rows = self._columns, self._rows
        if self.count == rows:
            return Entries(columns.numbers[:rows], columns.ids[:rows], columns.hashes[:rows], columns.matrix[:rows])
        keep = np.flatnonzero(self.alive)
        return Entries(columns.numbers[keep], self.ids(keep), columns.hashes[keep], columns.matrix[keep])

    def ids(self, rows: Rows) -> list[str]:
        """The image ids of rows."""
        ids = self._columns.ids
        return [ids[row] for row in rows.tolist()]

    def hashes(self, rows: Rows) -> NDArray[np.uint8]:
        """SHA-256 of the contents of rows: (len(rows), 32)."""
        return self._columns.hashes[rows]

    def vectors(self, rows: Rows) -> Floats:
        """The vectors of rows: (len(rows), D)."""
        return self._columns.matrix[rows]

    def nearest(self, query: Floats, k: int) -> tuple[Rows, Floats]:
        """At most k rows with the highest inner product with query (D,), highest first; dead rows may be among them."""
        k = min(k, self._rows)
        if k > _HEAP_MOST or k == 0:
            products = self.similarities(query)
            rows: Rows = np.argpartition(products, self._rows - k)[self._rows - k :] if k else np.zeros(0, np.int64)
            rows = rows[np.argsort(-products[rows], kind="stable")]
            return rows, products[rows]
        values, found = np.empty(k, np.float32), np.empty(k, np.int64)
        matrix = self._columns.matrix
        query = np.ascontiguousarray(query, dtype=np.float32)
        _use_one_thread()
        faiss.knn_inner_product(
            faiss.swig_ptr(query),
            faiss.swig_ptr(matrix),
            matrix.shape[1],
            1,
            self._rows,
            k,
            faiss.swig_ptr(values),
            faiss.swig_ptr(found),
        )
        return found, values

    def similarities(self, query: Floats) -> Floats:
        """The inner product of every row with query (D,): (N,), bit by bit what `nearest` returns."""
        products = np.empty(self._rows, np.float32)
        if self._rows:
            matrix = self._columns.matrix
            query = np.ascontiguousarray(query, dtype=np.float32)
            faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
                faiss.swig_ptr(products), faiss.swig_ptr(query), faiss.swig_ptr(matrix), matrix.shape[1], self._rows
            )
        return products

    def products(self, probes: Floats, start: int, stop: int) -> Floats:
        """The inner products of probes (P, D) with rows start..stop: (P, stop - start). BLOCK must divide start."""
        count = probes.shape[0]
        padded = np.zeros((-(-count // _PROBES) * _PROBES, probes.shape[1]), np.float32)
        padded[:count] = probes
        whole = start + -(-(stop - start) // BLOCK) * BLOCK
        products: Floats = self._columns.matrix[start:whole] @ padded.T
        return np.ascontiguousarray(products[: stop - start, :count].T)


class FlatIndex:
    """An exact index over unit vectors of one length; see `Index`."""

    def __init__(self, dimensions: int, chunks: Iterable[Entries] = (), *, size: int = 0, revision: int = 0) -> None:
        """Starts with the images in `chunks`, which are copied; `size` is how many there are in all, if known."""
        self._lock = threading.Lock()
        self._columns = _Columns.empty(size, dimensions)
        self._row_of: dict[str, int] = {}
        self._view = FlatView(self._columns, 0, np.zeros(0, np.bool_), 0, revision)
        for chunk in chunks:
            self.apply(Change(revision, (), chunk))

    @property
    def dimensions(self) -> int:
        """D, the length of the vectors."""
        return int(self._columns.matrix.shape[1])

    def view(self) -> FlatView:
        """The newest view."""
        return self._view

    def locate(self, ids: Sequence[str]) -> tuple[FlatView, Rows]:
        """The newest view, and the row of each id in it: -1 for ids that it does not hold."""
        with self._lock:
            get = self._row_of.get
            return self._view, np.array([get(id, -1) for id in ids], dtype=np.int64)

    def apply(self, change: Change) -> None:
        """Removes and adds; readers see all of the change or nothing of it. For the one writer."""
        old = self._view
        start, stop = len(old.alive), len(old.alive) + len(change.added)
        columns = self._with_room(stop)
        columns.write(start, change.added)
        alive = np.ones(stop, np.bool_)
        alive[:start] = old.alive
        dead = [self._row_of[id] for id in change.removed if id in self._row_of]
        if dead:
            alive[dead] = False
        count = old.count - len(dead) + len(change.added)
        self._publish(columns, FlatView(columns, stop, alive, count, change.revision), change)
        if stop - count > max(_COMPACT_MIN, _COMPACT_SHARE * stop):
            self._compact()

    def _publish(self, columns: _Columns, view: FlatView, change: Change) -> None:
        start = view.alive.size - len(change.added)
        with self._lock:
            for id in change.removed:
                self._row_of.pop(id, None)
            self._row_of.update(zip(change.added.ids, range(start, view.alive.size), strict=True))
            self._columns, self._view = columns, view

    def _with_room(self, rows: int) -> _Columns:
        """The columns, or larger copies of them when `rows` do not fit. Half as much again keeps copying cheap."""
        columns, used = self._columns, self._view.alive.size
        if rows <= columns.matrix.shape[0]:
            return columns
        larger = _Columns.empty(rows + rows // 2, self.dimensions)
        larger.write(0, Entries(columns.numbers[:used], columns.ids, columns.hashes[:used], columns.matrix[:used]))
        return larger

    def _compact(self) -> None:
        view = self._view
        entries = view.entries
        columns = _Columns.empty(len(entries) + len(entries) // 8, self.dimensions)
        columns.write(0, entries)
        row_of = {id: row for row, id in enumerate(columns.ids)}
        size = len(entries)
        with self._lock:
            self._columns, self._row_of = columns, row_of
            self._view = FlatView(columns, size, np.ones(size, np.bool_), size, view.revision)
