"""The running round in Redis: taken under a lease, written under a fence, stored once, followed through a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from services.orchestrator.store import scripts
from services.orchestrator.store.database import Database, Value
from services.orchestrator.store.keys import SessionRef
from services.orchestrator.store.records import SessionRecord

_LAST = 2**63


class LeaseLostError(Exception):
    """The round belongs to somebody else by now, was ended, or its session is gone: nothing more may be written."""


@dataclass(frozen=True)
class Lease:
    """The right to write one round. `sequence` is that of its last event when the lease was given.

    `partial` is what an earlier owner had of the round, serialized; empty for a new one.
    """

    ref: SessionRef
    request_id: str
    fence: str
    attempt: int
    sequence: int
    partial: bytes = b""


@dataclass(frozen=True)
class Busy:
    """A living owner has the session's round; its lease ends in `left_s` seconds unless it is renewed."""

    left_s: float


@dataclass(frozen=True)
class StoredEvent:
    """An event of a round: a serialized message, the index of the stored round, or a serialized status."""

    sequence: int
    kind: Literal["event", "round", "error"]
    data: bytes


class RoundStore:
    """Writes and reads running rounds. Errors are those of `Database`."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self.lease_s = lease_s
        self._lease_ms = max(1, int(lease_s * 1000))

    async def begin(
        self,
        session: SessionRecord,
        request_id: str,
        *,
        digest: str,
        owner: str,
        replaces_with: bytes,
        events: Sequence[bytes],
    ) -> Lease | Busy | None:
        """Starts a round with its first events; None when the session changed since `session` was read.

        A round whose owner is silent gives way; who follows it gets the status `replaces_with`.
        """
        ref = session.ref
        args: list[Value] = [session.version, request_id, digest, owner, self._lease_ms, replaces_with, *events]
        return _lease(ref, request_id, await self._database.run(scripts.BEGIN, ref.keys, args))

    async def claim(self, ref: SessionRef, request_id: str, owner: str) -> Lease | Busy | None:
        """Takes over a round whose owner is silent; None when it has ended meanwhile."""
        answer = await self._database.run(scripts.CLAIM, ref.keys, [request_id, owner, self._lease_ms])
        return _lease(ref, request_id, answer)

    async def append(
        self,
        lease: Lease,
        sequence: int,
        events: Sequence[bytes],
        *,
        partial: bytes = b"",
        streamed: Mapping[str, str] | None = None,
    ) -> None:
        """Stores events that follow event number `sequence`, and renews the lease. Raises LeaseLostError."""
        images = streamed or {}
        args: list[Value] = [lease.fence, sequence, self._lease_ms, partial, len(images), *_flat(images), *events]
        if not await self._database.run(scripts.APPEND, lease.ref.keys, args):
            raise LeaseLostError

    async def renew(self, lease: Lease) -> None:
        """Says that the owner is alive. Raises LeaseLostError."""
        if not await self._database.run(scripts.RENEW, lease.ref.keys, [lease.fence, self._lease_ms]):
            raise LeaseLostError

    async def release(self, lease: Lease) -> None:
        """Gives the round to whoever asks for it next, without waiting for the lease to end."""
        await self._database.run(scripts.RENEW, lease.ref.keys, [lease.fence, 0])

    async def commit(
        self,
        lease: Lease,
        version: int,
        sequence: int,
        index: int,
        round: bytes,
        *,
        streamed: Mapping[str, str],
        events: Sequence[bytes],
    ) -> bool:
        """Stores the round, its last events and the terminal one; False when the session's version is another.

        Raises LeaseLostError.
        """
        args: list[Value] = [lease.fence, lease.request_id, version, sequence, index, round]
        args += [len(streamed), *_flat(streamed), *events]
        answer = await self._database.run(scripts.COMMIT, lease.ref.keys, args)
        if answer == b"stale":
            raise LeaseLostError
        return bool(answer == b"ok")

    async def fail(self, lease: Lease, status: bytes) -> None:
        """Ends the round without a result. Raises LeaseLostError."""
        if not await self._database.run(scripts.FAIL, lease.ref.keys, [lease.fence, status]):
            raise LeaseLostError

    async def events(self, ref: SessionRef, attempt: int, after: int) -> list[StoredEvent]:
        """The stored events of an attempt that follow event number `after`."""
        first, last = f"{attempt}-{after + 1}", f"{attempt}-{_LAST}"
        return [_event(entry) for entry in await self._database.command("XRANGE", ref.events, first, last)]

    async def wait(self, ref: SessionRef, attempt: int, after: int, wait_s: float) -> list[StoredEvent]:
        """As `events`, but waits up to `wait_s` seconds for the first."""
        block_ms = max(1, int(wait_s * 1000))
        # XREAD only tells that there is something: its answer has one form in RESP2 and another in RESP3.
        await self._database.command(
            "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", ref.events, f"{attempt}-{after}"
        )
        return await self.events(ref, attempt, after)


def _lease(ref: SessionRef, request_id: str, answer: Sequence[bytes | int]) -> Lease | Busy | None:
    match answer:
        case [b"ok", bytes(fence), attempt, sequence, *rest]:
            partial = rest[0] if rest and isinstance(rest[0], bytes) else b""
            return Lease(ref, request_id, fence.decode(), int(attempt), int(sequence), partial)
        case [b"busy", left]:
            return Busy(int(left) / 1000)
    return None


def _event(entry: tuple[bytes, Mapping[bytes, bytes]]) -> StoredEvent:
    id, fields = entry
    sequence = int(id.partition(b"-")[2])
    for kind in ("event", "round"):
        if kind.encode() in fields:
            return StoredEvent(sequence, "event" if kind == "event" else "round", fields[kind.encode()])
    return StoredEvent(sequence, "error", fields[b"error"])


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]
