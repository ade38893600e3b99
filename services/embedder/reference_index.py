"""The files of the reference implementation: a FAISS index with the vectors, and a pickled map of numbers and paths."""

import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import faiss
import numpy as np

from services.embedder.plain_pickle import Plain, read_plain
from warmer.errors import InvalidArgument


class ReferenceIndex:
    """A FAISS index that holds its vectors as they were added: flat, alone or in an IDMap."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidArgument (UNREADABLE_INDEX)."""
        try:
            outer = faiss.read_index(str(path))
            self._outer = self._inner = outer  # an IDMap takes what it holds with it
            self._numbers = np.arange(outer.ntotal, dtype=np.int64)
            if isinstance(outer, faiss.IndexIDMap | faiss.IndexIDMap2):
                self._numbers = faiss.vector_to_array(outer.id_map).astype(np.int64)
                self._inner = faiss.downcast_index(outer.index)
        except (RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()
            raise _unreadable(f"{path} is no FAISS index: {reason[-1] if reason else 'out of memory'}") from error
        self.dimensions = int(outer.d)
        if not isinstance(self._inner, faiss.IndexFlat):
            kind = type(self._inner).__name__
            raise _unreadable(f"{path} is an {kind}, which does not hold its vectors as they were")

    def __len__(self) -> int:
        return len(self._numbers)

    def rows(self) -> dict[int, int]:
        """The row of each number."""
        return {number: row for row, number in enumerate(self._numbers.tolist())}

    def vectors(self, rows: Iterable[int]) -> Iterator[np.ndarray]:
        """The vectors (D,) of rows, as they are in the index."""
        for row in rows:
            yield np.asarray(self._inner.reconstruct(int(row)), np.float32)


def read_id_map(path: Path) -> dict[int, str]:
    """Path or name of each number: from a dict, either way round, or from a list of paths or of pairs.

    Raises what `read_plain` raises, and InvalidArgument (BAD_ID_MAP).
    """
    names: dict[int, str] = {}
    for left, right in _pairs(read_plain(path)):
        number, name = (right, left) if isinstance(left, str) else (left, right)
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(name, str) or not name:
            raise _bad_map(f"it has {reprlib.repr(left)} with {reprlib.repr(right)}, not a number with a path")
        if names.setdefault(number, name) != name:
            raise _bad_map(f"number {number} has two images")
    return names


def find_image(folder: Path, name: str) -> Path | None:
    """The file in the folder that a path of the map means, or None.

    The map holds paths of another machine, so its leading parts are left out until a file is found. Nothing outside
    the folder is ever found.
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    for start in range(len(parts)):
        file = folder.joinpath(*parts[start:])
        try:
            if file.is_file():
                return file
        except (OSError, ValueError):  # a name that no file can have
            return None
    return None


def unit(vector: np.ndarray) -> np.ndarray | None:
    """The vector at length 1; None when it has no direction."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < float("inf"):
        return None
    return (vector / length).astype(np.float32)


def _pairs(data: Plain) -> Iterable[tuple[Any, Any]]:
    if isinstance(data, dict):
        return data.items()
    if not isinstance(data, list | tuple):
        raise _bad_map(f"it is a {type(data).__name__}")
    if all(isinstance(item, str) for item in data):
        return enumerate(data)
    if all(isinstance(item, list | tuple) and len(item) == 2 for item in data):
        return data
    raise _bad_map("it is a list of neither paths nor pairs")


def _bad_map(what: str) -> InvalidArgument:
    return InvalidArgument(
        f"the id map cannot be understood: {what}",
        reason="BAD_ID_MAP",
        hint="It should be a dict of numbers and image paths, or a list of paths.",
    )


def _unreadable(message: str) -> InvalidArgument:
    hint = "Give the index that the reference wrote with faiss.write_index (IndexFlatIP or IndexFlatL2)."
    return InvalidArgument(message, reason="UNREADABLE_INDEX", hint=hint)
