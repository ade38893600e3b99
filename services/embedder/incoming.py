"""Reads an AddImages stream: the first message names the collection, offsets rise, and everything else is an item."""

from collections.abc import AsyncIterator

from services.embedder.preparing import Incoming
from services.embedder.validation import bad
from warmer.v1 import embedder_pb2


async def opened(
    requests: AsyncIterator[embedder_pb2.AddImagesRequest],
) -> tuple[str, AsyncIterator[Incoming]]:
    """The name of the collection, and the items. Raises InvalidArgument (BAD_ID) for a stream without any message."""
    async for first in requests:
        return first.collection, _items(first, requests)
    raise bad("BAD_ID", "the stream is empty", "collection", "name the collection in the first message")


async def _items(
    first: embedder_pb2.AddImagesRequest, rest: AsyncIterator[embedder_pb2.AddImagesRequest]
) -> AsyncIterator[Incoming]:
    last: int | None = None
    if first.HasField("item"):
        last = first.item.offset
        yield _incoming(first.item)
    async for request in rest:
        if not request.HasField("item"):
            continue
        if last is not None and request.item.offset <= last:
            raise bad(
                "BAD_OFFSET",
                f"offset {request.item.offset} comes after {last}",
                "item.offset",
                "offsets strictly increase within a stream; what came before this item is committed",
            )
        last = request.item.offset
        yield _incoming(request.item)


def _incoming(item: embedder_pb2.AddImagesItem) -> Incoming:
    return Incoming(item.offset, item.image_id, item.content, item.source, item.vector, item.vector_model)
