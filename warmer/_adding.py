"""What the sync and the async way of adding images share: reading an item, and how many may be in flight.

An item is in flight from its sending to its result. The window bounds memory on both sides; a server must therefore
acknowledge after some time, however few items it has, or both would wait for each other.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from warmer._kept_requests import vector_bytes
from warmer._requests import ENVELOPE_BYTES
from warmer.channel import MAX_MESSAGE_BYTES
from warmer.errors import DeadlineExceeded, InvalidArgument, WarmerError
from warmer.names import check_image_id
from warmer.types import AddResult, NewImage
from warmer.v1 import embedder_pb2

WINDOW_ITEMS = 256
WINDOW_BYTES = 64 * 1024 * 1024
STALL_S = 120.0
"""Seconds without any result, while items are in flight, after which adding gives up."""

STREAM_TIMEOUT_S = 86_400.0
"""Deadline of a whole stream of images: a day. What guards against a silent server is STALL_S."""


def prepare(image: NewImage, offset: int) -> embedder_pb2.AddImagesItem | AddResult:
    """The item to send, or the failed result of an image that cannot be sent."""
    try:
        check_image_id(image.id)
        item = embedder_pb2.AddImagesItem(offset=offset, image_id=image.id, content=_content(image))
        item.source = image.source
        item.vector_model = image.vector_model
        if image.vector is not None:
            item.vector = vector_bytes(image.vector)
    except WarmerError as error:
        return failed(image, error)
    except ValueError as error:  # protobuf: a source, or a name, that is not valid Unicode
        return failed(image, InvalidArgument(f"the item cannot be sent: {error}", reason="BAD_VALUE", field="source"))
    return item


def failed(image: NewImage, error: WarmerError) -> AddResult:
    """The result of an image that failed on this side."""
    return AddResult(image.id, "failed", source=image.source, error=error)


def stalled() -> DeadlineExceeded:
    """The error for a server that answers nothing while items are in flight."""
    return DeadlineExceeded(
        f"no image was acknowledged for {STALL_S:.0f} s",
        reason="STALLED",
        hint="Look at the embedder's log, then run it again: what is stored already costs little.",
    )


def results_of(response: embedder_pb2.AddImagesResponse, window: Window) -> list[AddResult]:
    """The results in a response; their items leave the window."""
    return [
        AddResult.from_proto(result, revision=response.revision, source=window.leave(result.offset))
        for result in response.results
    ]


@dataclass(frozen=True, slots=True)
class _Flight:
    size: int
    source: str


class Window:
    """Accounts for the items in flight; subclasses wait for room in their own way."""

    def __init__(self, max_items: int = WINDOW_ITEMS, max_bytes: int = WINDOW_BYTES) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._flights: dict[int, _Flight] = {}
        self._bytes = 0
        self.closed = False
        self.sent_all = False
        self._last_change = time.monotonic()

    @property
    def stalled(self) -> bool:
        """Whether the server has owed an answer for too long."""
        waiting = bool(self._flights) or self.sent_all
        return waiting and time.monotonic() - self._last_change >= STALL_S

    def leave(self, offset: int) -> str:
        """Takes an item out and gives its source; an offset that is not in flight changes nothing."""
        flight = self._flights.pop(offset, None)
        if flight is None:
            return ""
        self._bytes -= flight.size
        self._last_change = time.monotonic()
        return flight.source

    def _full(self, size: int) -> bool:
        # A lone item goes whatever its size, or it would wait for ever.
        over = len(self._flights) >= self._max_items or self._bytes + size > self._max_bytes
        return bool(self._flights) and over and not self.closed

    def _add(self, item: embedder_pb2.AddImagesItem) -> None:
        self._flights[item.offset] = _Flight(len(item.content), item.source)
        self._bytes += len(item.content)
        self._last_change = time.monotonic()


class SyncWindow(Window):
    """A window between the thread that sends and the one that receives."""

    def __init__(self, max_items: int = WINDOW_ITEMS, max_bytes: int = WINDOW_BYTES) -> None:
        super().__init__(max_items, max_bytes)
        self._room = threading.Condition()

    def enter(self, item: embedder_pb2.AddImagesItem) -> bool:
        """Waits for room and takes the item in; False when the stream has ended meanwhile."""
        with self._room:
            self._room.wait_for(lambda: not self._full(len(item.content)))
            if not self.closed:
                self._add(item)
            return not self.closed

    def leave(self, offset: int) -> str:
        """See :meth:`Window.leave`."""
        with self._room:
            source = super().leave(offset)
            self._room.notify_all()
            return source

    def close(self) -> None:
        """Ends all waiting."""
        with self._room:
            self.closed = True
            self._room.notify_all()


class AioWindow(Window):
    """A window between two tasks of one event loop."""

    def __init__(self, max_items: int = WINDOW_ITEMS, max_bytes: int = WINDOW_BYTES) -> None:
        super().__init__(max_items, max_bytes)
        self._room = asyncio.Event()

    async def enter(self, item: embedder_pb2.AddImagesItem) -> bool:
        """Waits for room and takes the item in; False when the stream has ended meanwhile."""
        while self._full(len(item.content)):
            self._room.clear()
            await self._room.wait()
        if not self.closed:
            self._add(item)
        return not self.closed

    def leave(self, offset: int) -> str:
        """See :meth:`Window.leave`."""
        source = super().leave(offset)
        self._room.set()
        return source

    def close(self) -> None:
        """Ends all waiting."""
        self.closed = True
        self._room.set()


def _content(image: NewImage) -> bytes:
    limit = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    if isinstance(image.content, bytes):
        size, content = len(image.content), image.content
    else:
        path = Path(image.content)
        try:
            size = path.stat().st_size
            # A file may grow between stat and read; one byte past the limit is enough to see it.
            with path.open("rb") as file:
                content = b"" if size > limit else file.read(limit + 1)
        except OSError as error:
            raise InvalidArgument(
                f"cannot read {os.fspath(image.content)!r}: {error.strerror or error}",
                reason="UNREADABLE_FILE",
                hint="Check that the file exists and that you may read it.",
            ) from error
        size = max(size, len(content))
    if size > limit:
        raise InvalidArgument(
            f"the file has {size:,} bytes, a message holds at most {limit:,}",
            reason="IMAGE_TOO_LARGE",
            hint="Make the image smaller.",
        )
    return content
