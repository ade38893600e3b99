"""The batcher: batches, order, limits, errors, cancellation and its end."""

import asyncio
import threading
import time

import pytest

from services.common.batcher import Batcher
from warmer.errors import Internal, InvalidArgument, NotFound, ResourceExhausted, Unavailable


class Recorder:
    """A model that doubles numbers; it can be held up, and notes its batches and threads."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()

    def __call__(self, items):
        self.batches.append(items)
        self.threads.add(threading.current_thread().name)
        self.busy.set()
        assert self.go.wait(10)
        return [InvalidArgument(f"{i} is odd", reason="ODD") if i % 2 else 2 * i for i in items]


def make(run, **changes):
    return Batcher(run, **{"name": "double", "max_batch": 4, "max_wait_s": 0.02, "max_queue": 8, **changes})


async def hold(model: Recorder, batcher: Batcher) -> asyncio.Task:
    """Makes the worker busy with item 100."""
    model.go.clear()
    first = asyncio.create_task(batcher.submit(100))
    await asyncio.to_thread(model.busy.wait, 10)
    return first


async def test_items_that_come_together_run_together_off_the_loop():
    model = Recorder()
    async with make(model) as batcher:
        results = await asyncio.gather(*(batcher.submit(i) for i in (2, 4, 6, 8, 10, 12)))
    assert results == [4, 8, 12, 16, 20, 24]
    assert model.batches == [[2, 4, 6, 8], [10, 12]]
    assert all(name.startswith("double") for name in model.threads)


async def test_a_lone_item_waits_no_longer_than_it_may():
    async with make(Recorder(), max_wait_s=0.1) as batcher:
        begin = time.monotonic()
        assert await batcher.submit(2) == 4
        assert 0.09 < time.monotonic() - begin < 2


async def test_one_bad_item_fails_alone():
    async with make(Recorder()) as batcher:
        results = await asyncio.gather(*(batcher.submit(i) for i in (2, 3, 4)), return_exceptions=True)
    assert results[0] == 4
    assert results[2] == 8
    assert isinstance(results[1], InvalidArgument)
    assert results[1].reason == "ODD"


async def test_a_broken_run_fails_its_batch_and_the_next_goes_on():
    calls = []

    def run(items):
        calls.append(items)
        if len(calls) == 1:
            raise ValueError("/secret/path")
        if len(calls) == 2:
            raise NotFound("no model", reason="MODEL_NOT_INSTALLED")
        return items[:-1] if len(calls) == 3 else items

    async with make(run) as batcher:
        broken = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert [(type(e), e.reason) for e in broken] == [(Internal, "MODEL_FAILED")] * 2
        assert "secret" not in str(broken)
        assert broken[0] is not broken[1]
        with pytest.raises(NotFound, match="no model"):
            await batcher.submit(1)
        with pytest.raises(Internal):  # too few results
            await batcher.submit(1)
        assert await batcher.submit(5) == 5


async def test_a_full_queue_says_when_to_come_back():
    model = Recorder()
    async with make(model) as batcher:
        first = await hold(model, batcher)
        waiting = [asyncio.create_task(batcher.submit(2)) for _ in range(8)]
        await asyncio.sleep(0)
        assert batcher.waiting == 8
        with pytest.raises(ResourceExhausted) as caught:
            await batcher.submit(2)
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after_s > 0
        model.go.set()
        assert await first == 200
        assert await asyncio.gather(*waiting) == [4] * 8


async def test_cancelling_takes_the_item_out():
    model = Recorder()
    async with make(model) as batcher:
        first = await hold(model, batcher)
        gone, stays = (asyncio.create_task(batcher.submit(i)) for i in (4, 6))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()  # runs already: its result is dropped
        await asyncio.gather(gone, first, return_exceptions=True)
        assert batcher.waiting == 1
        model.go.set()
        assert await stays == 12
    assert model.batches == [[100], [6]]


async def test_urgent_items_go_first():
    model = Recorder()
    async with make(model) as batcher:
        first = await hold(model, batcher)
        slow = [asyncio.create_task(batcher.submit(i)) for i in (2, 4, 6, 8)]
        await asyncio.sleep(0)
        fast = asyncio.create_task(batcher.submit(10, urgent=True))
        await asyncio.sleep(0)
        model.go.set()
        await asyncio.gather(first, fast, *slow)
    assert model.batches == [[100], [10, 2, 4, 6], [8]]


@pytest.mark.parametrize("drain", [True, False])
async def test_close(drain):
    model = Recorder()
    batcher = make(model)
    first = await hold(model, batcher)
    waiting = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close(drain=drain))
    await asyncio.sleep(0)
    model.go.set()
    await closing
    assert await first == 200
    if drain:
        assert await waiting == 4
    else:
        with pytest.raises(Unavailable, match="shutting down"):
            await waiting
    with pytest.raises(Unavailable):
        await batcher.submit(2)


async def test_the_loop_is_free_while_a_batch_runs():
    async with make(lambda items: time.sleep(0.3) or items) as batcher:
        task = asyncio.create_task(batcher.submit(1))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
    assert ticks > 10
