"""Adding images over one bidirectional stream, from blocking code.

Three threads take part: gRPC's own reads the files and sends them, a reader receives the results, and the caller's
waits for them in a queue. So a file that cannot be read is a result like any other, and reading goes on while the
server works.
"""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import grpc

from warmer import _adding
from warmer._sync.calls import mapped
from warmer.channel import REQUEST_ID_KEY
from warmer.types import AddResult, NewImage
from warmer.v1 import embedder_pb2, embedder_pb2_grpc


class _End:
    """Marks the end of the stream in the queue, with the error that ended it."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def add_images(
    stub: embedder_pb2_grpc.EmbedderServiceStub, collection: str, images: Iterable[NewImage]
) -> Iterator[AddResult]:
    """Results as they come; ``collection`` is a resource name. Leaving the iterator early cancels the stream."""
    adder = _Adder(collection, images)
    request_id = uuid.uuid4().hex
    call: Any = stub.AddImages(
        adder.requests(), timeout=_adding.STREAM_TIMEOUT_S, metadata=((REQUEST_ID_KEY, request_id),)
    )
    threading.Thread(target=adder.receive, args=(call, request_id), name="warmer-add-images", daemon=True).start()
    try:
        yield from adder.results()
    finally:
        adder.window.close()
        call.cancel()


class _Adder:
    def __init__(self, collection: str, images: Iterable[NewImage]) -> None:
        self.window = _adding.SyncWindow()
        self._collection = collection
        self._images = images
        self._queue: queue.SimpleQueue[AddResult | _End] = queue.SimpleQueue()
        self._source_error: BaseException | None = None

    def requests(self) -> Iterator[embedder_pb2.AddImagesRequest]:
        """Run by gRPC's sending thread."""
        yield embedder_pb2.AddImagesRequest(collection=self._collection)
        try:
            for offset, image in enumerate(self._images, 1):
                item = _adding.prepare(image, offset)
                if isinstance(item, AddResult):
                    self._queue.put(item)
                elif self.window.enter(item):
                    yield embedder_pb2.AddImagesRequest(item=item)
                if self.window.closed:
                    return
        except Exception as error:  # the caller's iterable failed: results() raises it in the caller's thread
            self._source_error = error
        self.window.sent_all = True

    def receive(self, call: Any, request_id: str) -> None:
        """Run by the reading thread."""
        error: BaseException | None = None
        try:
            for response in call:
                for result in _adding.results_of(response, self.window):
                    self._queue.put(result)
        except grpc.RpcError as failure:
            error = mapped(failure, request_id)
        except Exception as failure:  # a response that cannot be understood: raised by results()
            error = failure
        self.window.close()
        self._queue.put(_End(error))

    def results(self) -> Iterator[AddResult]:
        """Run by the caller's thread."""
        while True:
            try:
                item = self._queue.get(timeout=_adding.STALL_S)
            except queue.Empty:
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
