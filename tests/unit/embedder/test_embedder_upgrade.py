"""Files of older versions are brought up to date at opening, in one transaction, and work as if made today."""

import sqlite3
from pathlib import Path

import pytest
from embedder_kit import picture, refused, running, settings_for
from test_embedder_kept import caption, captions, put_captions, put_vectors, sets

from services.embedder.collections import schema
from warmer.errors import FailedPrecondition

FOLDER = "tenants/default/collections/photos"
ITEMS = [(f"i{n}", picture("red", n)) for n in range(4)]

VERSION_1 = """
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
"""What Warmer 0.1 made, word by word."""

ROWS = ("collection", "contents", "images", "vectors")


def downgraded(path: Path) -> None:
    """Puts the rows of a file into one of version 1."""
    old = path.with_name("old.sqlite3")
    made = sqlite3.connect(old)
    made.executescript(f"{VERSION_1} PRAGMA user_version = 1;")
    made.execute("ATTACH DATABASE ? AS today", (str(path),))
    for table in ROWS:
        made.execute(f"INSERT INTO {table} SELECT * FROM today.{table}")
    made.commit()
    made.close()
    for leftover in path.parent.glob(path.name + "*"):
        leftover.unlink()
    old.rename(path)


def version(path: Path) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return found


def tables(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    found = {name: " ".join(sql.split()) for name, sql in rows}
    connection.close()
    return found


async def version_1(folder: Path) -> Path:
    """A collection of version 1 with four images."""
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.add(ITEMS)
    path = settings.data_dir / FOLDER / "collection.sqlite3"
    downgraded(path)
    assert version(path) == 1
    return path


async def test_a_file_of_version_1_is_brought_up_to_date(folder: Path) -> None:
    path = await version_1(folder)
    async with running(settings_for(folder)) as api:
        assert sorted(await api.ids("red")) == [id for id, _ in ITEMS]
        await api.add([("i9", picture("red", 9))])
        await put_captions(api, caption("i1", ITEMS[1][1], "a red wall"))
        assert await captions(api, ["i1"], "cap@1") == [("i1", "a red wall")]
        assert (await put_vectors(api, dict(ITEMS))).missing_count == 1
    assert version(path) == len(schema.VERSIONS) == 2
    async with running(settings_for(folder)) as api:
        assert await sets(api) == {"other@7": (5, 4)}
        assert len(await api.ids("red")) == 5


async def test_an_upgraded_file_has_the_tables_of_a_new_one(folder: Path) -> None:
    path = await version_1(folder)
    async with running(settings_for(folder)) as api:
        await api.create("new")
    assert tables(path) == tables(path.parents[1] / "new" / path.name)


async def test_an_upgrade_that_fails_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await version_1(folder)
    before = tables(path)
    monkeypatch.setattr(schema, "VERSIONS", (*schema.VERSIONS, "CREATE TABLE broken (id NONSENSE) STRICT;"))
    async with running(settings_for(folder)) as api, refused("STORAGE_FAILED"):
        await api.search("red")
    assert (version(path), tables(path)) == (1, before)
    monkeypatch.undo()
    async with running(settings_for(folder)) as api:
        assert len(await api.ids("red")) == 4


async def test_a_file_of_a_later_version_is_left_alone(folder: Path) -> None:
    path = await version_1(folder)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    async with running(settings_for(folder)) as api, refused("SCHEMA_TOO_NEW", FailedPrecondition):
        await api.search("red")
    assert version(path) == 3
