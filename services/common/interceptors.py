"""What every call to a service goes through: request id, deadline, readiness, access log, and errors as statuses."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc_status import rpc_status

from services.common import deadlines
from services.common.failures import to_warmer_error
from services.common.readiness import Readiness
from services.common.telemetry import REQUEST_ID_KEY, bind_request_id, usable_request_id
from warmer.errors import to_status

_log = structlog.get_logger("access")

# Probes come every few seconds and would drown the log.
_QUIET = ("/grpc.health.", "/grpc.reflection.")
_SHAPE = {False: "unary", True: "stream"}
# gRPC tells a call without deadline by a time left of centuries.
_NO_DEADLINE_S = 1e8


@dataclass(frozen=True)
class _Call:
    method: str
    request_id: str


class ServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps handlers of all four shapes, written as coroutines or as async generators.

    Servicers raise WarmerError and never touch the context for errors. A servicer must not send initial metadata: it
    is sent before the handler runs, with the request id.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call; None (an unknown method) stays None."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        metadata = dict(handler_call_details.invocation_metadata or ())
        call = _Call(handler_call_details.method, usable_request_id(metadata.get(REQUEST_ID_KEY)))
        return self._wrapped(handler, call)

    def _wrapped(self, handler: Any, call: _Call) -> Any:
        kind = f"{_SHAPE[handler.request_streaming]}_{_SHAPE[handler.response_streaming]}"
        behaviour = getattr(handler, kind)
        body = _stream if handler.response_streaming else _unary

        async def serve(request: Any, context: Any) -> Any:
            return await self._serve(call, context, lambda: body(behaviour, request, context))

        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            serve, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    async def _serve(self, call: _Call, context: Any, run: Callable[[], Awaitable[Any]]) -> Any:
        begin = time.perf_counter()
        structlog.contextvars.clear_contextvars()
        bind_request_id(call.request_id)
        left = context.time_remaining()
        deadlines.set_deadline(left if left is not None and left < _NO_DEADLINE_S else None)
        code, reason = "OK", ""
        try:
            await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
            self._readiness.check(call.method)
            return await run()
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = "ABORTED_BY_HANDLER"
            raise
        except Exception as error:
            failure = to_warmer_error(error)
            code, reason = failure.code.name, failure.reason
            await context.abort_with_status(rpc_status.to_status(to_status(failure)))
        finally:
            _write_access_log(call.method, code, reason, time.perf_counter() - begin)


async def _unary(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
    result = behaviour(request, context)
    return await result if inspect.isawaitable(result) else result


async def _stream(behaviour: Callable[..., Any], request: Any, context: Any) -> None:
    result = behaviour(request, context)
    if inspect.isawaitable(result):  # a coroutine that writes to the context itself
        await result
        return
    async with aclosing(result) as responses:  # so that a cancelled call runs the generator's `finally` now
        async for response in responses:
            await context.write(response)


def _write_access_log(method: str, code: str, reason: str, seconds: float) -> None:
    write = _log.debug if method.startswith(_QUIET) else _log.info
    extra = {"reason": reason} if reason else {}
    write("call", method=method, code=code, duration_ms=round(seconds * 1e3, 2), **extra)
