"""The tables of a collection, and how older ones are brought up to date.

Vectors have a table of their own, so that listing images does not read past them. A number is never used twice
(AUTOINCREMENT), and the row of a number never changes: a replaced image gets a new one. So an index that knows numbers
finds out what it missed by comparing numbers.
"""

import sqlite3
from pathlib import Path

from warmer.errors import FailedPrecondition

_FIRST = """
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

_SECOND = """
CREATE TABLE captions (               -- they go with their content
    sha256          BLOB NOT NULL REFERENCES contents (sha256),
    model           TEXT NOT NULL,
    prompt_version  TEXT NOT NULL,
    text            TEXT NOT NULL,
    tokens          INTEGER NOT NULL,
    create_us       INTEGER NOT NULL,
    PRIMARY KEY (sha256, model, prompt_version)
) STRICT, WITHOUT ROWID;

CREATE TABLE vector_sets (            -- vectors of other models than the collection's own
    number       INTEGER PRIMARY KEY,
    model        TEXT NOT NULL UNIQUE,
    dimensions   INTEGER NOT NULL,
    image_count  INTEGER NOT NULL     -- images that have one
) STRICT;

CREATE TABLE kept_vectors (
    set_number  INTEGER NOT NULL REFERENCES vector_sets (number),
    number      INTEGER NOT NULL REFERENCES images (number),
    vector      BLOB NOT NULL,        -- little-endian float32, unit length
    PRIMARY KEY (set_number, number)
) STRICT;
"""

# What each version added, in order; a file's user_version counts those that it has. Scripts that were released stay as
# they are: a change is a further script.
VERSIONS = (_FIRST, _SECOND)


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
    _bring_up(connection, 0)


def prepare(connection: sqlite3.Connection) -> None:
    """Brings a file of an older version up to date, in one transaction.

    Raises FailedPrecondition: SCHEMA_TOO_NEW when a later Warmer wrote the file, SCHEMA_UNKNOWN when none did.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > len(VERSIONS):
        raise FailedPrecondition(
            f"the collection has schema version {found}; this version of Warmer reads up to {len(VERSIONS)}",
            reason="SCHEMA_TOO_NEW",
            hint="update Warmer",
        )
    if found < 1:
        raise FailedPrecondition(
            "the file is no collection of Warmer", reason="SCHEMA_UNKNOWN", hint="restore the folder from a backup"
        )
    if found < len(VERSIONS):
        _bring_up(connection, found)


def _bring_up(connection: sqlite3.Connection, version: int) -> None:
    scripts = "".join(VERSIONS[version:])
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {scripts} PRAGMA user_version = {len(VERSIONS)}; COMMIT;")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
