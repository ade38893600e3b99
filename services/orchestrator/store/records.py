"""What is read from Redis, as plain typed records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.orchestrator.store.keys import SessionRef

ACTIVE, FINISHED = "active", "finished"


@dataclass(frozen=True)
class SessionRecord:
    """The fields of a session. Times are Unix milliseconds on Redis's clock."""

    ref: SessionRef
    incarnation: str
    version: int
    collection: str
    strategy: str
    page_size: int
    display_name: str
    state: str
    found_image_id: str
    parent_round: str
    round_count: int
    ttl_ms: int
    created_ms: int
    updated_ms: int
    expires_ms: int

    @property
    def etag(self) -> str:
        """The etag of this state of the session."""
        return etag(self.incarnation, self.version)

    @property
    def finished(self) -> bool:
        """Whether the hunt has ended."""
        return self.state == FINISHED


def etag(incarnation: str, version: int) -> str:
    """Changes with every change, and differs between a session and a later one of the same id."""
    return f"{incarnation}-{version}"


@dataclass(frozen=True)
class RunRecord:
    """The running round of a session; `lease_left_ms` is negative once its owner is silent for too long."""

    request_id: str
    attempt: int
    lease_left_ms: int


@dataclass(frozen=True)
class RequestEntry:
    """A request id that was seen: the attempt that holds its events, and the index of its round once it is stored."""

    attempt: int
    digest: str
    index: int | None


@dataclass(frozen=True)
class Snapshot:
    """One consistent look at a session.

    `streamed` has the sha256 of each image that was asked about, None for one that was never streamed.
    """

    now_ms: int
    session: SessionRecord | None
    rounds: tuple[bytes, ...]
    run: RunRecord | None
    request: RequestEntry | None
    streamed: Mapping[str, str | None]


def session_record(ref: SessionRef, pairs: Sequence[bytes]) -> SessionRecord | None:
    """The record in the answer of HGETALL, or None when there is no session."""
    if not pairs:
        return None
    fields = _fields(pairs)
    return SessionRecord(
        ref=ref,
        incarnation=fields["incarnation"],
        version=int(fields["version"]),
        collection=fields["collection"],
        strategy=fields["strategy"],
        page_size=int(fields["page_size"]),
        display_name=fields["display_name"],
        state=fields["state"],
        found_image_id=fields["found_image_id"],
        parent_round=fields["parent_round"],
        round_count=int(fields["round_count"]),
        ttl_ms=int(fields["ttl_ms"]),
        created_ms=int(fields["created_ms"]),
        updated_ms=int(fields["updated_ms"]),
        expires_ms=int(fields["expires_ms"]),
    )


def run_record(pairs: Sequence[bytes], now_ms: int) -> RunRecord | None:
    """The record in the answer of HGETALL, or None when no round is running."""
    if not pairs:
        return None
    # `partial` holds a serialized message, not text.
    fields = {key.decode(): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
    return RunRecord(
        request_id=fields["request_id"].decode(),
        attempt=int(fields["attempt"]),
        lease_left_ms=int(fields["lease_until"]) - now_ms,
    )


def request_entry(value: bytes) -> RequestEntry | None:
    """The entry ``attempt|digest|index|fence``, or None when the request id is new."""
    if not value:
        return None
    attempt, digest, index, _ = value.decode().split("|")
    return RequestEntry(int(attempt), digest, int(index) if index else None)


def _fields(pairs: Sequence[bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
