"""What tests of kept vectors share: unit vectors, and whether a file's counts agree with its rows."""

import sqlite3
from pathlib import Path

import numpy as np


def unit(vector: np.ndarray) -> bytes:
    return (vector / np.linalg.norm(vector)).astype("<f4").tobytes()


def check(folder: Path) -> None:
    """Every count is right, and nothing is left of what is gone."""
    connection = sqlite3.connect(folder / "collection.sqlite3")
    one = lambda sql: connection.execute(sql).fetchone()[0]  # noqa: E731
    assert one("SELECT image_count FROM collection") == one("SELECT COUNT(*) FROM images")
    assert one("SELECT COUNT(*) FROM vectors JOIN images USING (number)") == one("SELECT COUNT(*) FROM images")
    assert one("SELECT COUNT(*) FROM vectors") == one("SELECT COUNT(*) FROM images")
    for number, count in connection.execute("SELECT number, image_count FROM vector_sets").fetchall():
        assert one(f"SELECT COUNT(*) FROM kept_vectors JOIN images USING (number) WHERE set_number = {number}") == count
        assert one(f"SELECT COUNT(*) FROM kept_vectors WHERE set_number = {number}") == count
    assert one("SELECT COUNT(*) FROM kept_vectors WHERE set_number NOT IN (SELECT number FROM vector_sets)") == 0
    assert one("SELECT COUNT(*) FROM vector_sets WHERE model = (SELECT model FROM collection)") == 0
    assert one("SELECT COUNT(*) FROM contents WHERE sha256 NOT IN (SELECT sha256 FROM images)") == 0
    assert one("SELECT COUNT(*) FROM captions WHERE sha256 NOT IN (SELECT sha256 FROM contents)") == 0
    assert one("SELECT content_bytes FROM collection") == one("SELECT COALESCE(SUM(size_bytes), 0) FROM contents")
    connection.close()
