"""One tree of exceptions for SDK and servers, and its translation to and from ``google.rpc.Status``.

It is here, and not on either side, so that an error raised in a service is the same class with the same reason, hint
and field when a user's ``except`` catches it::

    WarmerError                  unknown or unmapped
    ├── InvalidArgument          the request is wrong whatever the state of the server: EMPTY_QUERY, NOT_AN_IMAGE, ...
    ├── OutOfRange               past the end of what there is
    ├── NotFound                 COLLECTION_NOT_FOUND, SESSION_NOT_FOUND, IMAGE_NOT_FOUND
    ├── AlreadyExists            COLLECTION_EXISTS, SESSION_EXISTS
    ├── FailedPrecondition       right request, wrong state: SESSION_FINISHED, MODEL_MISMATCH, NO_ROUND_YET
    ├── Aborted                  somebody else was faster: STALE_ETAG, ROUND_IN_PROGRESS
    ├── ResourceExhausted        QUEUE_FULL, with ``retry_after_s``
    ├── Unavailable              the server cannot be reached or is not ready; the SDK has retried already
    ├── DeadlineExceeded         no answer within the time given
    ├── Cancelled                the caller gave up
    ├── PermissionDenied         known, but not allowed
    ├── Unauthenticated          no token, or a wrong one
    ├── Unimplemented            the server does not know the call
    ├── DataLoss                 stored data is damaged
    └── Internal                 a defect of the server; its log holds the traceback under the request id

The details follow https://google.aip.dev/193.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

DOMAIN = "warmer"
HINT_KEY = "hint"
STATUS_DETAILS_KEY = "grpc-status-details-bin"


class WarmerError(Exception):
    """Base of all errors of Warmer.

    Attributes:
        message: what went wrong, for people, without the hint.
        reason: what went wrong, for programs: UPPER_SNAKE, stable.
        hint: what to do about it; may be empty.
        field: path of the request's field that is wrong; may be empty.
        resource: resource name of what is missing, taken or in the wrong state; may be empty.
        retry_after_s: seconds to wait before trying again; None when a retry is not suggested.
        metadata: further facts, by name.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        hint: str = "",
        field: str = "",
        resource: str = "",
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.hint = hint
        self.field = field
        self.resource = resource
        self.retry_after_s = retry_after_s
        self.metadata: dict[str, str] = dict(metadata or {})

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message.rstrip('.')}. {self.hint}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r})"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and decoders raise across processes.
        return _rebuild, (type(self), self.message, self._details())

    def _details(self) -> dict[str, object]:
        names = ("reason", "hint", "field", "resource", "retry_after_s", "metadata")
        return {name: getattr(self, name) for name in names}


def _rebuild(kind: type[WarmerError], message: str, details: dict[str, object]) -> WarmerError:
    return kind(message, **details)  # type: ignore[arg-type]


class InvalidArgument(WarmerError):
    """The request is wrong, whatever the state of the server."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class OutOfRange(WarmerError):
    """The request goes past the end of what there is."""

    code = grpc.StatusCode.OUT_OF_RANGE


class NotFound(WarmerError):
    """What the request names does not exist, or has expired."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(WarmerError):
    """The id is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(WarmerError):
    """The request is right, but not in this state."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(WarmerError):
    """Somebody else changed the resource first; read it again and decide."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(WarmerError):
    """A queue, quota or message size is used up."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(WarmerError):
    """The server cannot be reached or is not ready."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(WarmerError):
    """No answer came within the time given."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(WarmerError):
    """The caller gave up."""

    code = grpc.StatusCode.CANCELLED


class PermissionDenied(WarmerError):
    """The caller is known, but may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(WarmerError):
    """The caller sent no token, or a wrong one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Unimplemented(WarmerError):
    """The server does not know the call."""

    code = grpc.StatusCode.UNIMPLEMENTED


class DataLoss(WarmerError):
    """Stored data is damaged."""

    code = grpc.StatusCode.DATA_LOSS


class Internal(WarmerError):
    """A defect of the server."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[int, type[WarmerError]] = {
    kind.code.value[0]: kind
    for kind in (
        WarmerError,
        InvalidArgument,
        OutOfRange,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        PermissionDenied,
        Unauthenticated,
        Unimplemented,
        DataLoss,
        Internal,
    )
}

# For statuses that gRPC itself makes: they carry no details, so what to do is said here.
_HINTS: dict[type[WarmerError], str] = {
    Unavailable: "Is the server running (`warmer up`), and is the target right (WARMER_TARGET)?",
    DeadlineExceeded: "Give the call more time, or less to do.",
    Unimplemented: "Client and server are of different versions, or the target is another service.",
}


def to_status(error: WarmerError) -> Status:
    """The status that carries the whole error: ErrorInfo always; BadRequest, ResourceInfo, RetryInfo where they fit."""
    metadata = dict(error.metadata)
    if error.hint:
        metadata[HINT_KEY] = error.hint
    status = Status(code=error.code.value[0], message=error.message)
    _pack(status, ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.field:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message, reason=error.reason)
        _pack(status, BadRequest(field_violations=[violation]))
    if error.resource:
        _pack(status, ResourceInfo(resource_name=error.resource, description=error.message))
    if error.retry_after_s is not None:
        _pack(status, RetryInfo(retry_delay=_duration(error.retry_after_s)))
    return status


def from_status(status: Status) -> WarmerError | None:
    """The error that a status carries, or None when it is OK.

    Statuses of other origin work too: what they lack is empty, and ``reason`` falls back to the name of the code.
    """
    if status.code == grpc.StatusCode.OK.value[0]:
        return None
    kind = _BY_CODE.get(status.code, WarmerError)
    error = kind(status.message or kind.code.value[1], reason=kind.code.name)
    for detail in status.details:
        _read_detail(error, detail)
    return error


def from_rpc_error(error: grpc.RpcError) -> WarmerError:
    """The error behind a failed call, sync or asyncio, unary or streaming."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or ""
    status = _status_in(error.trailing_metadata() if hasattr(error, "trailing_metadata") else None)
    if status is not None and status.code == code.value[0]:
        mapped = from_status(status)
        if mapped is not None:
            return mapped
    kind = _BY_CODE.get(code.value[0], WarmerError)
    return kind(details or code.value[1], reason=code.name, hint=_HINTS.get(kind, ""))


def _status_in(metadata: Iterable[Any] | None) -> Status | None:
    for key, value in metadata or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                return None  # not ours to judge: code and message of the call still tell what happened
    return None


def _read_detail(error: WarmerError, detail: AnyMessage) -> None:
    info, bad_request, resource, retry = ErrorInfo(), BadRequest(), ResourceInfo(), RetryInfo()
    if detail.Is(ErrorInfo.DESCRIPTOR) and detail.Unpack(info):
        error.reason = info.reason or error.reason
        error.metadata = dict(info.metadata)
        error.hint = error.metadata.pop(HINT_KEY, "")
    elif detail.Is(BadRequest.DESCRIPTOR) and detail.Unpack(bad_request):
        error.field = bad_request.field_violations[0].field if bad_request.field_violations else ""
    elif detail.Is(ResourceInfo.DESCRIPTOR) and detail.Unpack(resource):
        error.resource = resource.resource_name
    elif detail.Is(RetryInfo.DESCRIPTOR) and detail.Unpack(retry):
        error.retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9


def _pack(status: Status, message: ErrorInfo | BadRequest | ResourceInfo | RetryInfo) -> None:
    status.details.add().Pack(message)


def _duration(seconds: float) -> Duration:
    whole, nanos = divmod(round(max(seconds, 0.0) * 1e9), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)
