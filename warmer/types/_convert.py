"""Small conversions between protobuf's way and Python's that all types share."""

from __future__ import annotations

import datetime as dt
from typing import Any, Protocol

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

FLOAT32_LE = np.dtype("<f4")


class EnumType(Protocol):
    """What is needed of a generated enum."""

    def Name(self, number: Any) -> str:
        """The name of a value; ValueError for an unknown one."""


def enum_name(kind: EnumType, number: int, prefix: str) -> str:
    """The name of an enum value in lower case without its prefix; "" when unset; the number if it is newer than us."""
    if number == 0:
        return ""
    try:
        return kind.Name(number).removeprefix(prefix).lower()
    except ValueError:
        return str(number)


def moment(stamp: Timestamp) -> dt.datetime | None:
    """The time in UTC, or None when unset."""
    if stamp.seconds == 0 and stamp.nanos == 0:
        return None
    return stamp.ToDatetime(tzinfo=dt.UTC)


def seconds(duration: Duration) -> float:
    """The duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def duration(value: float) -> Duration:
    """The protobuf duration of that many seconds."""
    message = Duration()
    message.FromNanoseconds(round(value * 1e9))
    return message


def vectors(data: bytes, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, dimensions) float32, from little-endian bytes one vector after the other."""
    width = max(dimensions, 1)
    return np.frombuffer(data, dtype=FLOAT32_LE).astype(np.float32).reshape(-1, width)


def vector_bytes(vector: Any) -> bytes:
    """The little-endian float32 bytes of one vector."""
    return np.ascontiguousarray(vector, dtype=FLOAT32_LE).tobytes()
