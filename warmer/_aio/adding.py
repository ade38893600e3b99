"""Adding images over one bidirectional stream, from asyncio code.

gRPC pulls the requests in a task of its own; files are read, and the caller's iterable is advanced, on a worker thread
so that the event loop is never held up. Results wait in a queue, those of unreadable files among them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from typing import Any

import grpc

from warmer import _adding
from warmer._aio.calls import call
from warmer._sync.calls import mapped
from warmer.channel import REQUEST_ID_KEY
from warmer.errors import Internal, Unavailable, WarmerError
from warmer.types import AddResult, NewImage
from warmer.v1 import embedder_pb2, embedder_pb2_grpc

# When the server ends the stream while grpc.aio writes to it, grpc.aio (seen in 1.85) makes up this INTERNAL status and
# loses the server's own (grpc/aio/_call.py, _StreamRequestMixin._write).
_WRITE_AFTER_END = "Internal error from Core"


class _End:
    """Marks the end of the stream in the queue, with the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def add_images(
    stub: embedder_pb2_grpc.EmbedderServiceAsyncStub,
    collection: str,
    images: Iterable[NewImage] | AsyncIterable[NewImage],
) -> AsyncGenerator[AddResult, None]:
    """Results as they come; ``collection`` is a resource name. Leaving the iterator early cancels the stream."""
    adder = _Adder(stub, collection, images)
    request_id = uuid.uuid4().hex
    stream: Any = stub.AddImages(
        adder.requests(), timeout=_adding.STREAM_TIMEOUT_S, metadata=((REQUEST_ID_KEY, request_id),)
    )
    reader = asyncio.create_task(adder.receive(stream, request_id))
    try:
        async for result in adder.results():
            yield result
    finally:
        adder.window.close()
        stream.cancel()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


class _Adder:
    def __init__(
        self,
        stub: embedder_pb2_grpc.EmbedderServiceAsyncStub,
        collection: str,
        images: Iterable[NewImage] | AsyncIterable[NewImage],
    ) -> None:
        self._stub = stub
        self.window = _adding.AioWindow()
        self._collection = collection
        self._images = images
        self._queue: asyncio.Queue[AddResult | _End] = asyncio.Queue()
        self._source_error: BaseException | None = None

    async def requests(self) -> AsyncIterator[embedder_pb2.AddImagesRequest]:
        """Run by gRPC's sending task."""
        yield embedder_pb2.AddImagesRequest(collection=self._collection)
        offset = 0
        try:
            async for image in _each(self._images):
                offset += 1
                item = await asyncio.to_thread(_adding.prepare, image, offset)
                if isinstance(item, AddResult):
                    self._queue.put_nowait(item)
                elif await self.window.enter(item):
                    yield embedder_pb2.AddImagesRequest(item=item)
                if self.window.closed:
                    return
        except Exception as error:  # the caller's iterable failed: results() raises it in the caller's task
            self._source_error = error
        self.window.sent_all = True

    async def receive(self, stream: Any, request_id: str) -> None:
        """Run by the reading task."""
        error: BaseException | None = None
        try:
            async for response in stream:
                for result in _adding.results_of(response, self.window):
                    self._queue.put_nowait(result)
        except grpc.RpcError as failure:
            error = mapped(failure, request_id)
            if isinstance(error, Internal) and error.message == _WRITE_AFTER_END:
                error = await self._why_it_ended()
        except Exception as failure:  # a response that cannot be understood: raised by results()
            error = failure
        self.window.close()
        self._queue.put_nowait(_End(error))

    async def _why_it_ended(self) -> WarmerError:
        """The server's reason if it still holds, such as a missing collection; else that the stream broke."""
        request = embedder_pb2.GetCollectionRequest(name=self._collection)
        try:
            await call(self._stub.GetCollection, request)
        except WarmerError as error:
            return error
        return Unavailable(
            "the server ended the stream of images early",
            reason="STREAM_BROKEN",
            hint="Send the images again: what is stored already costs little.",
        )

    async def results(self) -> AsyncIterator[AddResult]:
        """Run by the caller's task."""
        while True:
            try:
                item = await asyncio.wait_for(self._queue.get(), _adding.STALL_S)
            except TimeoutError:
                if self.window.stalled:
                    raise _adding.stalled() from None
                continue  # the caller's iterable takes its time
            if isinstance(item, AddResult):
                yield item
                continue
            error = item.error or self._source_error
            if error is not None:
                raise error
            return


async def _each(images: Iterable[NewImage] | AsyncIterable[NewImage]) -> AsyncIterator[NewImage]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
        return
    iterator = iter(images)
    while (found := await asyncio.to_thread(next, iterator, None)) is not None:
        yield found
