"""The tables of a collection, and how older ones are brought up to date.

Vectors have a table of their own, so that listing images does not read past them. A number is never used twice
(AUTOINCREMENT), and the row of a number never changes: a replaced image gets a new one. So an index that knows numbers
finds out what it missed by comparing numbers.
"""

import sqlite3
from pathlib import Path

from warmer.errors import FailedPrecondition

VERSION = 1

TABLES = """
CREATE TABLE collection (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    id             TEXT NOT NULL,
    model          TEXT NOT NULL,     -- identity of the encoder that made the vectors
    dimensions     INTEGER NOT NULL,
    description    TEXT NOT NULL,
    revision       INTEGER NOT NULL,  -- counts changes
    token          INTEGER NOT NULL,  -- random, new with every revision: tells a restored backup from its later self
    image_count    INTEGER NOT NULL,
    content_bytes  INTEGER NOT NULL,  -- each content once
    create_us      INTEGER NOT NULL,  -- microseconds since 1970, UTC
    update_us      INTEGER NOT NULL
) STRICT;

CREATE TABLE contents (
    sha256      BLOB PRIMARY KEY,
    media_type  TEXT NOT NULL,
    width       INTEGER NOT NULL,
    height      INTEGER NOT NULL,
    size_bytes  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id   TEXT NOT NULL UNIQUE,
    sha256     BLOB NOT NULL REFERENCES contents (sha256),
    source     TEXT NOT NULL,
    create_us  INTEGER NOT NULL
) STRICT;

CREATE INDEX images_by_content ON images (sha256);

CREATE TABLE vectors (
    number  INTEGER PRIMARY KEY REFERENCES images (number),
    vector  BLOB NOT NULL             -- little-endian float32, unit length
) STRICT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions: WAL, a sync at every commit. Whoever has it uses it alone."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -8192")  # KiB
    return connection


def create(connection: sqlite3.Connection) -> None:
    """Makes the tables of an empty file."""
    connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")


def check_version(connection: sqlite3.Connection) -> None:
    """Raises FailedPrecondition: SCHEMA_TOO_NEW when a later Warmer wrote the file, SCHEMA_UNKNOWN when none did."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise FailedPrecondition(
            f"the collection has schema version {found}; this version of Warmer reads up to {VERSION}",
            reason="SCHEMA_TOO_NEW",
            hint="update Warmer",
        )
    if found < 1:
        raise FailedPrecondition(
            "the file is no collection of Warmer", reason="SCHEMA_UNKNOWN", hint="restore the folder from a backup"
        )
