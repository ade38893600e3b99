"""The asynchronous client does the same as the blocking one, over both ways of running Warmer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from running import Running

from warmer import aio
from warmer.errors import FailedPrecondition, NotFound
from warmer.types import NewImage, RoundReady


@pytest.fixture
async def async_client(running: Running) -> AsyncIterator[aio.Client]:
    targets = running.targets
    async with aio.Client(targets["orchestrator"], embedder=targets["embedder"], round_timeout_s=120) as client:
        yield client


async def test_collection_search_and_hunt(async_client: aio.Client, gallery: Path) -> None:
    name = f"a-{uuid.uuid4().hex[:12]}"
    await async_client.collections.create(name)
    images = [NewImage("cat", gallery / "chelsea.png"), NewImage("bad", b""), NewImage("cup", gallery / "coffee.png")]
    outcomes = {result.image_id: result.outcome async for result in async_client.collections.add_images(name, images)}
    assert outcomes == {"cat": "added", "bad": "failed", "cup": "added"}
    assert (await async_client.search(name, "a cup of espresso")).hits[0].image_id == "cup"
    assert await async_client.collections.image_bytes(name, "cat") == (gallery / "chelsea.png").read_bytes()

    session = await async_client.sessions.create("gallery", strategy="rewrite", page_size=4)
    first = await session.search("a machine")
    events = [event async for event in session.refine_stream(relevant=[first.hits[0].image_id], comment="red")]
    assert isinstance(events[-1], RoundReady)
    assert "red" in events[-1].round.query
    assert [round.index async for round in session.rounds()] == [0, 1]
    assert (await session.finish(first.hits[0].image_id)).state == "finished"
    with pytest.raises(FailedPrecondition) as finished:
        await session.refine()
    assert finished.value.reason == "SESSION_FINISHED"
    await async_client.collections.delete(name)
    with pytest.raises(NotFound) as caught:
        await async_client.search(name, "a cat")
    assert caught.value.reason == "COLLECTION_NOT_FOUND"


async def test_many_calls_at_once(async_client: aio.Client) -> None:
    queries = ["a cat", "a rocket", "a cup of espresso"] * 20
    expected = {"a cat": "chelsea.png", "a rocket": "rocket.jpg", "a cup of espresso": "coffee.png"}
    results = await asyncio.gather(*(async_client.search("gallery", query) for query in queries))
    assert [result.hits[0].image_id for result in results] == [expected[query] for query in queries]


async def test_both_clients_see_the_same(running: Running, async_client: aio.Client) -> None:
    with running.client() as blocking:
        session = blocking.sessions.create("gallery", page_size=4)
        first = session.search("a machine")
        there = await async_client.sessions.get(session.id)
        assert [round async for round in there.rounds()] == [first]
        second = await there.refine(relevant=[first.hits[0].image_id])
        assert list(session.rounds()) == [first, second]
