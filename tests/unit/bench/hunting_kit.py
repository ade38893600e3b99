"""A small dataset of the sample gallery, and a connection that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warmer.bench.datasets.base import Dataset, Image, Problem, Query
from warmer.bench.records import Hunt, Round

CAPTIONS = {
    "chelsea.png": ("a striped cat looks at the camera", "the face of a pet with green eyes", "whiskers and fur"),
    "coffee.png": ("a cup of espresso", "a red cup on a saucer with a spoon", "a hot drink on a table"),
    "rocket.jpg": ("a rocket on its launch pad", "a tall white machine lit at night", "smoke around a tower"),
    "astronaut.png": ("a smiling woman", "an orange space suit", "a portrait before a flag"),
    "camera.png": ("a man in a coat", "somebody takes a picture on a lawn", "a tripod in black and white"),
    "flower.jpg": ("a blossom", "red and yellow petals", "a plant close by"),
    "china.jpg": ("an old building", "a temple with a curved roof", "trees around a pagoda"),
    "coins.png": ("money", "old coins in rows", "round metal pieces"),
}


def dataset(gallery: Path, *, problems: tuple[Problem, ...] = ()) -> Dataset:
    """All photographs of the gallery, eight of them with captions and a query each."""
    images = tuple(Image(path.name, path) for path in sorted(gallery.iterdir()))
    queries = tuple(Query(f"{id}#0", texts[0], (id,), texts[1:]) for id, texts in CAPTIONS.items())
    return Dataset("gallery", images, queries, dict(CAPTIONS), {}, problems)


@contextmanager
def silent(_what: str, _noun: str) -> Iterator[object]:
    """No display of progress."""
    yield lambda done, total: None


def essence(hunt: Hunt) -> Hunt:
    """A hunt without the times that it took."""
    rounds = tuple(dataclasses.replace(round, timings={}) for round in hunt.rounds)
    return dataclasses.replace(hunt, rounds=rounds, seconds=0.0)


def a_round(index: int = 0, *, rank: int = 30, position: int | None = None, shown: int = 3, pool: int = 12) -> Round:
    """A round whose hits are named after their places."""
    hits = tuple(f"{index}-{place}" for place in range(1, pool + 1))
    return Round(index, rank, position, hits, hits[:shown], {"target": rank})


class Wire:
    """A unix socket that hands on to another one, until it is cut."""

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server.removeprefix("unix:")
        self._open: set[asyncio.StreamWriter] = set()
        self._listening: asyncio.Server | None = None

    @property
    def target(self) -> str:
        return f"unix:{self._path}"

    async def mend(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listening = await asyncio.start_unix_server(self._serve, self._path)

    async def cut(self) -> None:
        if self._listening is not None:
            self._listening.close()
        self._path.unlink(missing_ok=True)
        for writer in list(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._server)
        self._open |= {writer, back}
        await asyncio.gather(_copy(reader, back), _copy(there, writer))
        self._open -= {writer, back}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
