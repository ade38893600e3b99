"""Snapshots of an index, so that opening a large collection is reading one file and not a million SQLite rows.

A snapshot is a hint and never the record: its checksum is compared before any of it is used, and whoever loads it
compares its revision with the record's. The data file has the safetensors layout
(https://github.com/huggingface/safetensors), and is written and read in pieces, because the library's own functions
hold everything in memory a second time. The manifest beside it, `index.json`, names file, checksum and revision; it is
replaced atomically once the data is on disk.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from services.embedder.files import sync_folder
from services.embedder.index.base import HASH_BYTES, Entries

_FORMAT = 1
_MANIFEST = "index.json"
_SUFFIX = ".safetensors"
_CHUNK_ROWS = 16_384
_MOST_HEADER = 65_536
_DTYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
}


class SnapshotUnusable(Exception):
    """There is no snapshot, or it is damaged, or it belongs to another state of the record. The text says which."""


@dataclass(frozen=True)
class Stamp:
    """What a snapshot is a snapshot of. `token` is the record's random mark of that very revision."""

    collection: str
    model: str
    dimensions: int
    revision: int
    token: int
    rows: int


def save(folder: Path, stamp: Stamp, entries: Entries) -> None:
    """Writes a snapshot and removes older ones. A crash at any moment leaves the older one in place. Raises OSError."""
    folder.mkdir(exist_ok=True)
    name = f"{stamp.revision:016d}-{stamp.token & 0xFFFF_FFFF:08x}{_SUFFIX}"
    with (folder / (name + ".tmp")).open("wb") as file:
        checksum = _write(file, stamp, entries)
        file.flush()
        os.fsync(file.fileno())
    (folder / (name + ".tmp")).replace(folder / name)
    manifest = {"format": _FORMAT, "file": name, "sha256": checksum, "stamp": asdict(stamp)}
    with (folder / (_MANIFEST + ".tmp")).open("w", encoding="utf-8") as text:
        json.dump(manifest, text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(folder)
    (folder / (_MANIFEST + ".tmp")).replace(folder / _MANIFEST)
    sync_folder(folder)
    for path in folder.iterdir():
        if path.name not in (name, _MANIFEST):
            path.unlink()


def drop(folder: Path) -> None:
    """Makes sure, durably, that no snapshot is used again. Raises OSError."""
    if folder.exists():
        (folder / _MANIFEST).unlink(missing_ok=True)
        sync_folder(folder)


class Snapshot:
    """A snapshot on disk, opened by its manifest; `chunks` reads it."""

    def __init__(self, folder: Path) -> None:
        """Raises SnapshotUnusable when there is none or its manifest is damaged."""
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != _FORMAT:
                raise SnapshotUnusable(f"format {manifest['format']} is unknown")
            self.stamp = Stamp(**manifest["stamp"])
            self._checksum = str(manifest["sha256"])
            self._path = folder / Path(str(manifest["file"])).name
            self._size = self._path.stat().st_size
        except FileNotFoundError as error:
            raise SnapshotUnusable("there is none") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SnapshotUnusable(f"its manifest is damaged: {error}") from error
        # Before anybody makes room for so many rows.
        if self.stamp.rows < 0 or self.stamp.dimensions <= 0 or self._size < self._least_size():
            raise SnapshotUnusable(f"its data is cut short: {self._size:,} bytes")

    def _least_size(self) -> int:
        """Size of everything in the data file but header and ids, in bytes."""
        return self.stamp.rows * (8 + HASH_BYTES + 2 + 4 * self.stamp.dimensions)

    def chunks(self) -> Iterator[Entries]:
        """All images, in pieces. Raises SnapshotUnusable at the latest after the last: use none before the end."""
        try:
            with self._path.open("rb") as file:
                yield from self._read(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SnapshotUnusable(f"its data is damaged: {error}") from error

    def _read(self, file: BinaryIO) -> Iterator[Entries]:
        digest = hashlib.sha256()
        rows, dimensions = self.stamp.rows, self.stamp.dimensions
        start = self._read_header(file, digest)
        numbers = _take(file, digest, "I64", (rows,))
        hashes = _take(file, digest, "U8", (rows, HASH_BYTES))
        lengths = _take(file, digest, "U16", (rows,))
        if start + self._least_size() + int(lengths.sum()) != self._size:
            raise SnapshotUnusable(f"its data has the wrong size: {self._size:,} bytes")
        ids = _split(_take(file, digest, "U8", (int(lengths.sum()),)), lengths)
        for first in range(0, rows, _CHUNK_ROWS):
            last = min(first + _CHUNK_ROWS, rows)
            vectors = _take(file, digest, "F32", (last - first, dimensions))
            yield Entries(numbers[first:last], ids[first:last], hashes[first:last], vectors)
        if digest.hexdigest() != self._checksum:
            raise SnapshotUnusable("its checksum is wrong")

    def _read_header(self, file: BinaryIO, digest: Any) -> int:
        """Reads past the header, whose content the checksum covers. Returns its length in bytes."""
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if length > _MOST_HEADER:
            raise SnapshotUnusable("its header is damaged")
        header = file.read(length)
        digest.update(first + header)
        return 8 + length


def _write(file: BinaryIO, stamp: Stamp, entries: Entries) -> str:
    """Writes header and tensors; returns the SHA-256 of the file."""
    encoded = [id.encode() for id in entries.ids]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    lengths = np.fromiter(map(len, encoded), np.dtype("<u2"), len(encoded))
    tensors = (
        ("numbers", "I64", entries.numbers),
        ("hashes", "U8", entries.hashes),
        ("id_lengths", "U16", lengths),
        ("id_bytes", "U8", text),
        ("vectors", "F32", entries.vectors),
    )
    header: dict[str, Any] = {"__metadata__": {name: str(value) for name, value in asdict(stamp).items()}}
    offset = 0
    for name, dtype, array in tensors:
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    digest = hashlib.sha256()
    _put(file, digest, len(packed).to_bytes(8, "little") + packed)
    for _, dtype, array in tensors:
        for first in range(0, len(array), _CHUNK_ROWS):
            part = np.ascontiguousarray(array[first : first + _CHUNK_ROWS], dtype=_DTYPES[dtype])
            _put(file, digest, part.data.cast("B"))
    return digest.hexdigest()


def _put(file: BinaryIO, digest: Any, data: bytes | memoryview) -> None:
    digest.update(data)
    file.write(data)


def _take(file: BinaryIO, digest: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Reads one array and adds its bytes to the checksum. Raises SnapshotUnusable when the file ends first."""
    array = np.empty(shape, _DTYPES[dtype])
    if array.size:
        view = array.data.cast("B")
        if file.readinto(view) != array.nbytes:  # type: ignore[attr-defined]
            raise SnapshotUnusable("its data is cut short")
        digest.update(view)
    return array


def _split(text: np.ndarray, lengths: np.ndarray) -> list[str]:
    data, ends = text.tobytes(), np.cumsum(lengths, dtype=np.int64).tolist()
    return [data[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)] if ends else []
