"""Client interceptors that fill in what a call lacks: a deadline, a request id, the token.

They are apart from :mod:`warmer.channel` because gRPC wants one per flavour and shape of call, which is noise there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import grpc.aio

REQUEST_ID_KEY = "x-request-id"


class _CallDetails(NamedTuple):
    """What gRPC reads from call details, for both flavours; a tuple because theirs cannot be copied with changes."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """Fills in what a call lacks: deadline, request id and token."""

    timeout_s: float
    authorization: str | None

    def metadata(self, given: Any) -> list[tuple[str, str | bytes]]:
        items = [(key, value) for key, value in given or ()]
        present = {key for key, _ in items}
        if REQUEST_ID_KEY not in present:
            items.append((REQUEST_ID_KEY, uuid.uuid4().hex))
        if self.authorization and "authorization" not in present:
            items.append(("authorization", self.authorization))
        return items

    def timeout(self, given: float | None) -> float:
        return self.timeout_s if given is None else given


class SyncDefaults(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults

    def _fill(self, details: Any) -> Any:
        return _CallDetails(
            method=details.method,
            timeout=self._defaults.timeout(details.timeout),
            metadata=self._defaults.metadata(details.metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._fill(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._fill(client_call_details), request)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._fill(client_call_details), request_iterator)


class _AioFill:
    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults

    def _fill(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=self._defaults.timeout(details.timeout),
            metadata=grpc.aio.Metadata(*self._defaults.metadata(details.metadata)),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


# grpc.aio registers an interceptor under the first kind that it is an instance of, so each kind needs a class.
class _AioUnaryUnary(_AioFill, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._fill(client_call_details), request)


class _AioUnaryStream(_AioFill, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._fill(client_call_details), request)


class _AioStreamStream(_AioFill, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._fill(client_call_details), request_iterator)


AIO_DEFAULTS: tuple[Callable[[Defaults], Any], ...] = (_AioUnaryUnary, _AioUnaryStream, _AioStreamStream)
