"""A bounded queue between the event loop and a model: items that come close together run as one batch on a thread.

Models are several times faster in batches, and they must never run on the event loop. The queue is bounded, so that a
crowd is told to come back later (QUEUE_FULL) instead of waiting for an answer that comes after its deadline.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import structlog

from warmer.errors import Internal, ResourceExhausted, Unavailable, WarmerError, from_status, to_status

In = TypeVar("In")
Out = TypeVar("Out")

_log = structlog.get_logger(__name__)


@dataclass(eq=False)  # compared by identity, so that an item can be taken out of the queue
class _Waiting(Generic[In, Out]):
    item: In
    result: "asyncio.Future[Out]"
    since: float


class Batcher(Generic[In, Out]):
    """Collects items into batches and runs them one batch at a time on a worker thread.

    `run` takes the items of a batch and returns one result for each; a WarmerError in place of a result fails that
    item alone. When `run` itself raises, every item of that batch fails, and the next batch goes on.

    All methods belong to one event loop. The first `submit` starts the batcher when nobody has called `start`.
    """

    def __init__(
        self,
        run: Callable[[list[In]], Sequence[Out | WarmerError]],
        *,
        name: str,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
        executor: Executor | None = None,
    ) -> None:
        """`max_wait_s` counts from the oldest waiting item; `max_queue` counts items waiting, not those running.

        Without an `executor` the batcher has a thread of its own, named after `name`.
        """
        self._run = run
        self._name = name
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._own_executor = executor is None
        self._executor = executor or ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._urgent: deque[_Waiting[In, Out]] = deque()
        self._queue: deque[_Waiting[In, Out]] = deque()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._batch_s = 0.0  # running mean of how long a batch takes

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        return len(self._urgent) + len(self._queue)

    async def submit(self, item: In, *, urgent: bool = False) -> Out:
        """The result for `item`. Urgent items (a person waits) go before the others (indexing).

        Cancelling takes the item out of the queue; when it is running already its result is dropped.
        Raises ResourceExhausted (QUEUE_FULL, with `retry_after_s`), Unavailable (SHUTTING_DOWN) after `close`, the
        item's own WarmerError, or Internal (MODEL_FAILED) when `run` broke.
        """
        if self._closed:
            raise self._shutting_down()
        if self.waiting >= self._max_queue:
            raise self._queue_full()
        await self.start()
        entry: _Waiting[In, Out] = _Waiting(item, asyncio.get_running_loop().create_future(), time.monotonic())
        queue = self._urgent if urgent else self._queue
        queue.append(entry)
        self._changed.set()
        try:
            return await entry.result
        except asyncio.CancelledError:
            if entry in queue:
                queue.remove(entry)
            raise

    async def start(self) -> None:
        """Starts collecting. Does nothing when it runs already."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._collect(), name=f"batcher-{self._name}")

    async def close(self, *, drain: bool = True) -> None:
        """Takes no more items; runs those that wait (`drain`), or fails them with Unavailable (SHUTTING_DOWN)."""
        self._closed = True
        if not drain:
            for entry in (*self._urgent, *self._queue):
                _fail(entry, self._shutting_down())
            self._urgent.clear()
            self._queue.clear()
        self._changed.set()
        if self._task is not None:
            await self._task
            self._task = None
        if self._own_executor:
            self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def _collect(self) -> None:
        while True:
            self._changed.clear()
            if not self.waiting:
                if self._closed:
                    return
                await self._changed.wait()
                continue
            left = self._oldest() + self._max_wait_s - time.monotonic()
            if self.waiting < self._max_batch and left > 0 and not self._closed:
                await _wait(self._changed, left)
                continue
            await self._run_batch(self._take())

    def _oldest(self) -> float:
        return min(queue[0].since for queue in (self._urgent, self._queue) if queue)

    def _take(self) -> list[_Waiting[In, Out]]:
        batch: list[_Waiting[In, Out]] = []
        for queue in (self._urgent, self._queue):
            while queue and len(batch) < self._max_batch:
                batch.append(queue.popleft())
        return batch

    async def _run_batch(self, batch: list[_Waiting[In, Out]]) -> None:
        begin = time.monotonic()
        items = [entry.item for entry in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, items)
            if len(results) != len(items):
                raise RuntimeError(f"{self._name} returned {len(results)} results for {len(items)} items")
        except WarmerError as error:
            for entry in batch:
                _fail(entry, error)
            return
        except Exception:
            _log.exception("batch failed", batcher=self._name, items=len(items))
            for entry in batch:
                _fail(entry, Internal(f"the {self._name} model failed", reason="MODEL_FAILED"))
            return
        for entry, result in zip(batch, results, strict=True):
            if isinstance(result, WarmerError):
                _fail(entry, result)
            elif not entry.result.done():
                entry.result.set_result(result)
        seconds = time.monotonic() - begin
        self._batch_s = seconds if not self._batch_s else 0.8 * self._batch_s + 0.2 * seconds

    def _queue_full(self) -> ResourceExhausted:
        batches = -(-self.waiting // self._max_batch)
        return ResourceExhausted(
            f"the {self._name} queue is full ({self.waiting} waiting)",
            reason="QUEUE_FULL",
            hint="try again later, or send fewer at once",
            retry_after_s=max(0.1, batches * self._batch_s),
        )

    def _shutting_down(self) -> Unavailable:
        return Unavailable(f"the {self._name} is shutting down", reason="SHUTTING_DOWN", hint="try again")


def _fail(entry: _Waiting[In, Out], error: WarmerError) -> None:
    """Fails one item with an error of its own: one exception raised in many tasks would mix up their tracebacks."""
    if not entry.result.done():
        entry.result.set_exception(from_status(to_status(error)) or error)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Waits until the event is set or the time is over, whichever comes first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return  # the batch goes as it is
