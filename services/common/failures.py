"""Turns whatever a servicer raised into the one error that its caller sees, and keeps internals in the log."""

import grpc
import structlog

from services.common.deadlines import deadline_exceeded, remaining_s
from services.common.telemetry import current_request_id
from warmer.errors import Internal, Unavailable, WarmerError, from_rpc_error

_log = structlog.get_logger(__name__)

# gRPC rejects trailing metadata above 8 KiB, and the message is in it up to four times, once percent-encoded.
_MESSAGE_BYTES = 600
_VALUE_BYTES = 300
_VALUES = 8


def to_warmer_error(error: Exception) -> WarmerError:
    """The error to answer with.

    A WarmerError stays itself, also when it comes from a downstream service. A deadline that passed is
    DeadlineExceeded. Everything else is Internal with reason INTERNAL, and its traceback goes to the log only.
    """
    if isinstance(error, WarmerError):
        return bounded(error)
    if isinstance(error, grpc.RpcError):
        return bounded(_from_downstream(error))
    left = remaining_s()
    if isinstance(error, TimeoutError) and left is not None and left <= 0.01:
        return deadline_exceeded("the call did not finish within its deadline")
    _log.error("unexpected error", exc_info=error)
    return _internal("the server failed unexpectedly")


def _from_downstream(error: grpc.RpcError) -> WarmerError:
    """Errors of our services pass as they are; those of gRPC itself lose their details, which name addresses."""
    failure = from_rpc_error(error)
    if failure.reason != failure.code.name:
        return failure
    _log.warning("downstream call failed", code=failure.code.name, details=failure.message)
    if failure.code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(
            "a service that this call needs cannot be reached",
            reason="DOWNSTREAM_UNAVAILABLE",
            hint="try again; if it stays, look at the health of all four services",
        )
    if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline_exceeded("a service that this call needs did not answer in time")
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return failure  # a message above the size limit; gRPC's own words say by how much
    return _internal("a service that this call needs failed unexpectedly")


def _internal(message: str) -> Internal:
    request_id = current_request_id() or ""
    return Internal(
        message,
        reason="INTERNAL",
        hint=f"look for request id {request_id} in the server's log",
        metadata={"request_id": request_id},
    )


def bounded(error: WarmerError) -> WarmerError:
    """The error with message, hint and metadata cut so that they fit into a response's trailing metadata."""
    values = dict(list(error.metadata.items())[:_VALUES])
    return type(error)(
        _cut(error.message, _MESSAGE_BYTES),
        reason=error.reason,
        hint=_cut(error.hint, _MESSAGE_BYTES),
        field=_cut(error.field, _VALUE_BYTES),
        resource=_cut(error.resource, _MESSAGE_BYTES),
        retry_after_s=error.retry_after_s,
        metadata={_cut(key, 63): _cut(value, _VALUE_BYTES) for key, value in values.items()},
    )


def _cut(text: str, most: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most else data[: most - 3].decode("utf-8", "ignore") + "…"
