"""One way to make a blocking call: with a request id, and with errors from Warmer's tree."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc

from warmer.channel import REQUEST_ID_KEY
from warmer.errors import WarmerError, from_rpc_error

Request = TypeVar("Request")
Response = TypeVar("Response")


def call(
    method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request, timeout_s: float | None = None
) -> Response:
    """The response of a unary call; WarmerError if it fails. None for the timeout is the client's default."""
    request_id = uuid.uuid4().hex
    try:
        return method(request, timeout=timeout_s, metadata=((REQUEST_ID_KEY, request_id),))
    except grpc.RpcError as error:
        raise mapped(error, request_id) from error


def stream(
    method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request, timeout_s: float | None = None
) -> Iterator[Response]:
    """The messages of a streaming call; leaving the iterator early cancels the call."""
    request_id = uuid.uuid4().hex
    messages: Any = method(request, timeout=timeout_s, metadata=((REQUEST_ID_KEY, request_id),))
    try:
        yield from messages
    except grpc.RpcError as error:
        raise mapped(error, request_id) from error
    finally:
        messages.cancel()


def pages(fetch: Callable[[str], Response]) -> Iterator[Response]:
    """All pages of a list call; ``fetch`` gets the page token."""
    token = ""
    while True:
        page: Any = fetch(token)
        yield page
        token = page.next_page_token
        if not token:
            return


def mapped(error: grpc.RpcError, request_id: str) -> WarmerError:
    """The error of Warmer's tree, with the request id that finds it in the servers' logs."""
    result = from_rpc_error(error)
    result.metadata.setdefault("request_id", request_id)
    return result
