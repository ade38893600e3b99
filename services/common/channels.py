"""Channels from one service to another: the SDK's channel, plus the request id and what is left of the deadline.

A call made while another call is served belongs to it: it carries the same request id, and it must end before the
caller gives up, early enough (`deadline_margin_s`) to still answer the caller.
"""

from typing import Any

import grpc

from services.common.deadlines import budget_s
from services.common.settings import Settings
from services.common.telemetry import REQUEST_ID_KEY, current_request_id
from warmer.channel import make_aio_channel


def make_service_channel(target: str, settings: Settings) -> grpc.aio.Channel:
    """A channel to another service at `target`, any gRPC target. Make it inside the event loop that uses it.

    Calls without a timeout get `call_timeout_s`. A call that has no time left raises DeadlineExceeded (reason
    DEADLINE_EXCEEDED) before anything is sent. Raises InvalidArgument (BAD_TARGET) as `warmer.channel`.
    """
    return make_aio_channel(
        target,
        timeout_s=settings.call_timeout_s,
        max_message_bytes=settings.max_message_bytes,
        interceptors=[kind(settings) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)],
    )


class _Forward:
    """Changes the details of a call. gRPC files an interceptor under one shape of call only, hence four subclasses."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.call_timeout_s
        self._margin_s = settings.deadline_margin_s

    def _forwarded(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = [(key, value) for key, value in details.metadata or ()]
        request_id = current_request_id()
        if request_id and REQUEST_ID_KEY not in dict(metadata):
            metadata.append((REQUEST_ID_KEY, request_id))
        own_s = self._timeout_s if details.timeout is None else details.timeout
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=budget_s(own_s, self._margin_s),
            metadata=grpc.aio.Metadata(*metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _UnaryUnary(_Forward, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._forwarded(client_call_details), request)


class _UnaryStream(_Forward, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._forwarded(client_call_details), request)


class _StreamUnary(_Forward, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._forwarded(client_call_details), request_iterator)


class _StreamStream(_Forward, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._forwarded(client_call_details), request_iterator)
