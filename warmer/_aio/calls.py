"""One way to make an asyncio call: with a request id, and with errors from Warmer's tree."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from warmer._sync.calls import mapped
from warmer.channel import REQUEST_ID_KEY

Request = TypeVar("Request")
Response = TypeVar("Response")


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout_s: float | None = None
) -> Response:
    """The response of a unary call; WarmerError if it fails. None for the timeout is the client's default."""
    request_id = uuid.uuid4().hex
    try:
        return await method(request, timeout=timeout_s, metadata=((REQUEST_ID_KEY, request_id),))
    except grpc.RpcError as error:
        raise mapped(error, request_id) from error


async def stream(
    method: grpc.aio.UnaryStreamMultiCallable[Request, Response], request: Request, timeout_s: float | None = None
) -> AsyncGenerator[Response, None]:
    """The messages of a streaming call; leaving the iterator early cancels the call."""
    request_id = uuid.uuid4().hex
    messages: Any = method(request, timeout=timeout_s, metadata=((REQUEST_ID_KEY, request_id),))
    try:
        async for message in messages:
            yield message
    except grpc.RpcError as error:
        raise mapped(error, request_id) from error
    finally:
        messages.cancel()


async def pages(fetch: Callable[[str], Awaitable[Response]]) -> AsyncIterator[Response]:
    """All pages of a list call; ``fetch`` gets the page token."""
    token = ""
    while True:
        page: Any = await fetch(token)
        yield page
        token = page.next_page_token
        if not token:
            return
