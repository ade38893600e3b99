"""The pipeline behind AddImages: reading, decoding, embedding and committing overlap, and memory stays bounded.

Items travel in groups. A reader makes groups of what arrives; each group is prepared (hashed, decoded, embedded, its
files written) beside others; a committer takes finished groups in the order of the stream, as many as are done, into
one transaction. While that syncs, the next groups are embedded. What the client is told is queued, so that a client
that does not read keeps no room from others, and reading stops when that queue grows.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from services.embedder.budget import Budget
from services.embedder.collections.collection import Collection
from services.embedder.collections.model import Add, Outcome
from services.embedder.embedding import Embedding
from services.embedder.preparing import Incoming, Prepared, Preparer
from warmer.errors import WarmerError

_GROUP_ITEMS = 16
_GROUP_BYTES = 4 * 1024 * 1024
_GROUP_WAIT_S = 0.005
_UNREAD = 64


@dataclass(frozen=True)
class Result:
    """What became of an item: an outcome, or the error that is its own."""

    offset: int
    image_id: str
    sha256: bytes
    outcome: Outcome | None
    error: WarmerError | None = None


@dataclass(frozen=True)
class Progress:
    """Every item up to `committed_offset` is durable and findable, or has failed; `revision` holds them."""

    committed_offset: int
    revision: int
    results: list[Result]


class _Group:
    """Items that are prepared together."""

    def __init__(self) -> None:
        self.items: list[Incoming] = []
        self.size = 0
        self.prepared: asyncio.Task[list[Prepared]] | None = None

    def add(self, item: Incoming) -> bool:
        """Adds an item; true when the group is full."""
        self.items.append(item)
        self.size += len(item.content)
        return len(self.items) >= _GROUP_ITEMS or self.size >= _GROUP_BYTES


class Adding:
    """One stream of images into one collection. `run` may be called once."""

    def __init__(
        self, collection: Collection, embedding: Embedding, budget: Budget, executor: Executor, commit_items: int
    ) -> None:
        """`executor` runs what blocks; `commit_items` is about how many images go into one transaction."""
        self._collection = collection
        self._budget = budget
        self._commit_items = commit_items
        self._preparer = Preparer(collection, embedding, executor)
        self._open: _Group | None = None
        self._flushing: asyncio.TimerHandle | None = None
        self._groups: deque[_Group] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._failure: Exception | None = None
        self._progress: asyncio.Queue[Progress | None] = asyncio.Queue()
        self._was_read = asyncio.Event()
        self._held: deque[int] = deque()  # sizes of the items that hold room in the budget, in the order of the stream

    async def run(self, items: AsyncIterator[Incoming]) -> AsyncGenerator[Progress]:
        """Adds the items and tells what has been committed, in the order of the stream.

        An item that fails does not stop the rest. When `items` raises, what came before is committed and told, and then
        the error is raised. Raises NotFound when the collection is deleted meanwhile, ResourceExhausted (DISK_FULL).
        """
        reader = asyncio.create_task(self._read(items))
        committer = asyncio.create_task(self._commit_all())
        try:
            while (progress := await self._progress.get()) is not None:
                self._was_read.set()
                yield progress
            await committer
            if self._failure is not None:
                raise self._failure
        finally:
            await self._stop(reader, committer)

    async def _stop(self, *tasks: asyncio.Task[None]) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        self._open = None  # the reader, when it ends, would have it prepared for nobody
        preparing = [group.prepared for group in self._groups if group.prepared is not None]
        for task in (*tasks, *preparing):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for left in await asyncio.gather(*preparing, return_exceptions=True):
            if not isinstance(left, BaseException):
                self._preparer.discard(left)
        self._budget.give(len(self._held), sum(self._held))
        self._held.clear()

    # Reading.

    async def _read(self, items: AsyncIterator[Incoming]) -> None:
        try:
            async for item in items:
                await self._wait_for_reader()
                await self._budget.take(len(item.content))
                self._held.append(len(item.content))
                self._collect(item)
        except Exception as error:
            self._failure = error  # raised by `run`, after what came before it
        finally:
            self._flush()
            self._ended = True
            self._changed.set()

    async def _wait_for_reader(self) -> None:
        while self._progress.qsize() > _UNREAD:
            self._was_read.clear()
            await self._was_read.wait()

    def _collect(self, item: Incoming) -> None:
        if self._open is None:
            self._open = _Group()
            self._flushing = asyncio.get_running_loop().call_later(_GROUP_WAIT_S, self._flush)
        if self._open.add(item):
            self._flush()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
        group, self._open = self._open, None
        if group is not None:
            group.prepared = asyncio.create_task(self._preparer.prepare(group.items))
            self._groups.append(group)
            self._changed.set()

    # Committing.

    async def _commit_all(self) -> None:
        try:
            while groups := await self._finished_groups():
                prepared = [item for group in groups for item in (group.prepared.result() if group.prepared else [])]
                self._progress.put_nowait(await self._commit(prepared))
                for _ in prepared:
                    self._budget.give(1, self._held.popleft())
        finally:
            self._progress.put_nowait(None)

    async def _finished_groups(self) -> list[_Group]:
        """The groups to commit next: the oldest, and those after it that are prepared by then. None at the end."""
        while not self._groups:
            if self._ended:
                return []
            self._changed.clear()
            await self._changed.wait()
        first = self._groups[0].prepared
        if first is not None:
            await asyncio.wait({first})
        groups: list[_Group] = []
        count = 0
        while self._groups and count < self._commit_items:
            task = self._groups[0].prepared
            if task is None or not task.done() or (groups and task.exception() is not None):
                break
            groups.append(self._groups.popleft())
            if task.exception() is not None:
                break  # it ends the stream, after what came before it
            count += len(groups[-1].items)
        return groups

    async def _commit(self, prepared: Sequence[Prepared]) -> Progress:
        outcomes: dict[int, Outcome] = {}
        errors = {item.offset: item.error for item in prepared if item.error is not None}
        waiting = deque((item.offset, item.add) for item in prepared if item.add is not None)
        revision = self._collection.info.revision
        while waiting:
            done, revision = await self._write([add for _, add in waiting])
            for outcome in done:
                offset, add = waiting.popleft()
                if outcome is not Outcome.MISSING:
                    outcomes[offset] = outcome
                    continue
                # It was there when we looked and is not any more: now it is decoded and embedded after all.
                again = await self._preparer.embed(offset, add)
                if again.add is not None:
                    waiting.appendleft((offset, again.add))
                elif again.error is not None:
                    errors[offset] = again.error
        results = [
            Result(item.offset, item.image_id, item.sha256, outcomes.get(item.offset), errors.get(item.offset))
            for item in prepared
        ]
        return Progress(prepared[-1].offset, revision, results)

    async def _write(self, adds: list[Add]) -> tuple[Sequence[Outcome], int]:
        written = await asyncio.wrap_future(self._collection.write(adds))
        return written.outcomes, written.revision
