from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import JPEG
from sdk_server import DIMENSIONS, Server

import warmer.aio
import warmer.client
from warmer import _adding, _refining, errors, types
from warmer.aio import Client

KINDS = ("Client", "Collections", "Session", "Sessions")


def public(kind: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(kind).items()
        if name == "__init__"
        or (not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)))
    }


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_both_clients_have_the_same_methods(kind: str) -> None:
    blocking, other = public(getattr(warmer.client, kind)), public(getattr(warmer.aio, kind))
    assert blocking.keys() == other.keys()
    for name, function in blocking.items():
        if isinstance(function, property):
            assert isinstance(other[name], property)
            continue
        assert shape(function) == shape(other[name]), name
        if name != "__init__":
            iterates = inspect.isgeneratorfunction(function)
            assert iterates == inspect.isasyncgenfunction(other[name]), name
            assert (not iterates) == inspect.iscoroutinefunction(other[name]), name


async def test_collections(aio_client: Client, server: Server) -> None:
    await aio_client.collections.create("b")
    await aio_client.collections.create("a")
    assert [c.id async for c in aio_client.collections.list()] == ["a", "b"]
    assert (await aio_client.collections.get("a")).id == "a"
    server.embedder.collections["a"] = {f"i{n}": b"0123456789" * n for n in range(1, 6)}
    assert [i.id async for i in aio_client.collections.images("a")] == ["i1", "i2", "i3", "i4", "i5"]
    assert (await aio_client.collections.image("a", "i2")).size_bytes == 20
    assert await aio_client.collections.image_bytes("a", "i3") == b"0123456789" * 3
    assert (await aio_client.collections.remove("a", "i1")).removed_count == 1
    await aio_client.collections.delete("a")
    with pytest.raises(errors.NotFound) as caught:
        await aio_client.collections.get("a")
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    with pytest.raises(errors.NotFound):
        await aio_client.collections.image_bytes("b", "nope")


async def test_search_rank_embed(aio_client: Client, server: Server, tmp_path: Path) -> None:
    server.embedder.collections["c"] = {"a": b"1", "b": b"2"}
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    result = await aio_client.search("c", "dog", image=path, top_k=1)
    assert [hit.image_id for hit in result.hits] == ["a"]
    ranking = await aio_client.rank(types.Search("c", (types.Term(text="dog"),)), "b")
    assert ranking.ranks[0].rank == 2
    assert (await aio_client.embed_text(["dog", "cat"])).shape == (2, DIMENSIONS)
    assert (await aio_client.embed_text([])).shape == (0, DIMENSIONS)
    first, second = await aio_client.embed_images([path, b"no image"])
    assert np.allclose(first.vector, 0.5)
    assert second.error is not None
    with pytest.raises(errors.InvalidArgument):
        await aio_client.embed_images([tmp_path / "none"])


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_add_images(aio_client: Client, tmp_path: Path, asynchronous: bool) -> None:
    await aio_client.collections.create("c")
    images = [types.NewImage("a", JPEG, "from"), types.NewImage("t", b"text"), types.NewImage("g", tmp_path / "gone")]

    async def each() -> AsyncIterator[types.NewImage]:
        for image in images:
            yield image

    results = [r async for r in aio_client.collections.add_images("c", each() if asynchronous else images)]
    found = {r.image_id: (r.outcome, r.error.reason if r.error else "", r.source) for r in results}
    assert found == {
        "a": ("added", "", "from"),
        "t": ("failed", "NOT_AN_IMAGE", ""),
        "g": ("failed", "UNREADABLE_FILE", ""),
    }


async def test_add_folder(aio_client: Client, gallery: Path) -> None:
    await aio_client.collections.create("c")
    seen: list[int] = []
    report = await aio_client.collections.add_folder("c", gallery, progress=lambda p: seen.append(p.done))
    assert (report.added, len(report.failures), report.skipped, seen) == (3, 1, 1, [1, 2, 3, 4])
    with pytest.raises(errors.NotFound):
        await aio_client.collections.add_folder("nope", gallery)


async def test_many_images_through_a_small_window(
    aio_client: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await aio_client.collections.create("c")
    monkeypatch.setattr(_adding.AioWindow.__init__, "__defaults__", (3, 1 << 20))
    images = [types.NewImage(str(n), JPEG) for n in range(50)]
    assert len([r async for r in aio_client.collections.add_images("c", images)]) == 50
    server.calls.silent_adding = True
    server.embedder.received = 0
    monkeypatch.setattr(_adding, "STALL_S", 0.3)
    with pytest.raises(errors.DeadlineExceeded):
        [r async for r in aio_client.collections.add_images("c", images)]
    assert server.embedder.received == 3


async def test_error_of_the_source(aio_client: Client) -> None:
    await aio_client.collections.create("c")

    def images() -> Iterator[types.NewImage]:
        yield types.NewImage("a", JPEG)
        raise ZeroDivisionError

    results: list[str] = []
    with pytest.raises(ZeroDivisionError):
        async for result in aio_client.collections.add_images("c", images()):
            results.append(result.outcome)
    assert results == ["added"]


async def test_the_servers_reason_survives_a_write_that_comes_too_late(aio_client: Client, server: Server) -> None:
    images = [types.NewImage(str(n), JPEG * 100) for n in range(20)]
    for _ in range(40):  # grpc.aio loses the server's status when a write and the end of the stream cross
        with pytest.raises(errors.NotFound):
            [r async for r in aio_client.collections.add_images("nope", images)]
    await aio_client.collections.create("c")
    for _ in range(20):
        server.embedder.received = 0
        server.calls.break_adding_after = 3
        with pytest.raises(errors.Unavailable):
            [r async for r in aio_client.collections.add_images("c", images)]


async def test_adding_leaves_no_task_behind(aio_client: Client) -> None:
    await aio_client.collections.create("c")
    images = (types.NewImage(str(n), JPEG) for n in range(10**9))
    stream = aio_client.collections.add_images("c", images)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    for _ in range(100):
        await asyncio.sleep(0.01)
        if len(asyncio.all_tasks()) == 1:
            break
    assert len(asyncio.all_tasks()) == 1


async def test_session(aio_client: Client, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_refining, "FIRST_BACKOFF_S", 0.01)
    server.embedder.collections["c"] = {"a.jpg": b"1", "b.jpg": b"2"}
    session = await aio_client.sessions.create("c", page_size=3, id="s")
    assert (await session.search("dog")).index == 0
    server.calls.break_after = [0, 3, 2]
    sequences = [event.sequence async for event in session.refine_stream("a.jpg")]
    assert sequences == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert (await session.refine(comment="on grass")).index == 2
    with pytest.raises(errors.Aborted):
        await session.refine(etag="old")
    assert [r.index async for r in session.rounds()] == [0, 1, 2]
    assert (await session.update(display_name="x")).display_name == "x"
    assert (await session.refresh()).round_count == 3
    assert [s.id async for s in aio_client.sessions.list()] == ["s"]
    assert (await session.finish()).state == "finished"
    await aio_client.sessions.delete("s")
    with pytest.raises(errors.NotFound):
        await aio_client.sessions.get("s")


async def test_cancelled_task_cancels_the_call(server: Server) -> None:
    server.calls.delays["GetModel"] = 0.5
    async with Client(server.target) as client:
        task = asyncio.create_task(client.model())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_two_clients_at_once(server: Server) -> None:
    async with Client(server.target) as one, Client(server.target) as other:
        await one.collections.create("c")

        async def add(client: Client, name: str) -> int:
            images = [types.NewImage(f"{name}{n}", JPEG) for n in range(100)]
            return len([r async for r in client.collections.add_images("c", images)])

        assert await asyncio.gather(add(one, "a"), add(other, "b")) == [100, 100]
        assert (await one.collections.get("c")).image_count == 200
