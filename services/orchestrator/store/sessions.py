"""Sessions in Redis: made, read, listed, changed by compare-and-set, deleted."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.orchestrator.store import scripts
from services.orchestrator.store.database import Database, Value
from services.orchestrator.store.keys import SessionRef, creation_key, index_key
from services.orchestrator.store.records import (
    SessionRecord,
    Snapshot,
    request_entry,
    run_record,
    session_record,
)
from warmer.errors import InvalidArgument

_PRUNE_SAMPLE = 8


@dataclass(frozen=True)
class Creation:
    """Which session a request id of CreateSession stands for; `done` once the session was made."""

    session_id: str
    digest: str
    done: bool


class SessionStore:
    """Reads and changes sessions; every change is one atomic script. Errors are those of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self,
        ref: SessionRef,
        fields: Mapping[str, Value],
        rounds: Sequence[bytes],
        streamed: Mapping[str, str],
        incarnation: str,
    ) -> SessionRecord | None:
        """Makes a session, or returns None when the id is taken.

        `rounds` and `streamed` (image id -> sha256) come from the parent of a branch, else they are empty.
        """
        args: list[Value] = [incarnation, 2 * len(fields), *_flat(fields), len(rounds), *rounds]
        args += [len(streamed), *_flat(streamed)]
        record = session_record(ref, await self._database.run(scripts.CREATE, ref.keys, args) or ())
        if record is not None:
            # Another slot of a cluster, so not in the script. A crash between the two leaves a session that works
            # but is not listed, unless the request is repeated.
            await self._database.command("ZADD", index_key(ref.tenant), 0, _member(record))
            await self._prune(ref.tenant)
        return record

    async def load(
        self, ref: SessionRef, *, request_id: str = "", image_ids: Sequence[str] = (), rounds: bool = False
    ) -> Snapshot:
        """One consistent look at the session and, if asked for, at its rounds, a request id and images."""
        args: list[Value] = [request_id, 1 if rounds else 0, *image_ids]
        now, session, stored, run, entry, streamed = await self._database.run(scripts.LOAD, ref.keys, args)
        return Snapshot(
            now_ms=now,
            session=session_record(ref, session),
            rounds=tuple(stored),
            run=run_record(run, now),
            request=request_entry(entry) if request_id else None,
            streamed={id: found[0].decode() if found else None for id, found in zip(image_ids, streamed, strict=True)},
        )

    async def rounds(self, ref: SessionRef, first: int, count: int) -> list[bytes]:
        """At most `count` rounds from index `first` on, serialized."""
        return list(await self._database.command("LRANGE", ref.rounds, first, first + count - 1))

    async def update(
        self, record: SessionRecord, changes: Mapping[str, Value], *, ends_run_with: bytes = b""
    ) -> SessionRecord | None:
        """Changes fields, or returns None when the session is no longer in the state of `record`.

        With `ends_run_with`, a serialized status, a running round ends without a result and its followers get that.
        """
        args: list[Value] = [record.version, secrets.token_hex(8), ends_run_with, *_flat(changes)]
        pairs = await self._database.run(scripts.UPDATE, record.ref.keys, args)
        return session_record(record.ref, pairs or ())

    async def delete(self, record: SessionRecord, *, any_version: bool) -> bool:
        """Deletes a session with all that belongs to it; False when it changed meanwhile."""
        expected: Value = "" if any_version else record.version
        deleted = await self._database.run(scripts.DELETE, record.ref.keys, [expected])
        if deleted:
            await self._database.command("ZREM", index_key(record.ref.tenant), _member(record))
        return bool(deleted)

    async def page(self, tenant: str, page_size: int, token: str) -> tuple[list[SessionRecord], str]:
        """A page of sessions, newest first, and the token of the next page ('' on the last).

        Raises InvalidArgument (BAD_PAGE_TOKEN).
        """
        found: list[SessionRecord] = []
        top = f"({_decode_token(token)}" if token else "+"
        while True:
            members = await self._database.command(
                *("ZREVRANGEBYLEX", index_key(tenant), top, "-", "LIMIT", 0, page_size + 1)
            )
            for member, record in await self._resolve(tenant, members):
                if len(found) == page_size:
                    return found, _encode_token(_member(found[-1]))
                if record is not None:
                    found.append(record)
                top = f"({member}"
            if len(members) <= page_size:
                return found, ""

    async def claim_creation(self, tenant: str, request_id: str, session_id: str, digest: str, ttl_ms: int) -> Creation:
        """Notes which session a request id makes; the first caller's note stays."""
        key = creation_key(tenant, request_id)
        await self._database.command("SET", key, f"{session_id}|{digest}|", "NX", "PX", ttl_ms)
        value = await self._database.command("GET", key)
        id, noted, done = value.decode().split("|")
        return Creation(id, noted, bool(done))

    async def complete_creation(self, tenant: str, request_id: str, creation: Creation, ttl_ms: int) -> None:
        """Notes that the session was made, so that a late repetition does not make it again after its deletion."""
        value = f"{creation.session_id}|{creation.digest}|done"
        await self._database.command("SET", creation_key(tenant, request_id), value, "PX", ttl_ms)

    async def _resolve(self, tenant: str, members: Sequence[bytes]) -> list[tuple[str, SessionRecord | None]]:
        """The session of each member of the index; members whose session is gone are removed."""
        names = [member.decode() for member in members]
        refs = [SessionRef(tenant, name.partition(":")[2]) for name in names]
        hashes = await self._database.commands([("HGETALL", ref.session) for ref in refs])
        records = [session_record(ref, _pairs(fields)) for ref, fields in zip(refs, hashes, strict=True)]
        # A session made anew under the id of an expired one has another member.
        current = [r if r is not None and _member(r) == name else None for r, name in zip(records, names, strict=True)]
        gone = [name for name, record in zip(names, current, strict=True) if record is None]
        if gone:
            await self._database.command("ZREM", index_key(tenant), *gone)
        return list(zip(names, current, strict=True))

    async def _prune(self, tenant: str) -> None:
        """Looks at a few members at random, as Redis does for expired keys: the index stays near what is alive."""
        members = await self._database.command("ZRANDMEMBER", index_key(tenant), _PRUNE_SAMPLE)
        await self._resolve(tenant, members)


def _flat(fields: Mapping[str, Value] | Mapping[str, str]) -> list[Value]:
    return [part for pair in fields.items() for part in pair]


def _pairs(fields: Mapping[bytes, bytes] | Sequence[bytes]) -> list[bytes]:
    """HGETALL as a flat list, whichever form the client gives it."""
    return [part for pair in fields.items() for part in pair] if isinstance(fields, Mapping) else list(fields)


def _member(record: SessionRecord) -> str:
    return f"{record.created_ms:015d}:{record.ref.id}"


def _encode_token(member: str) -> str:
    return base64.urlsafe_b64encode(member.encode()).decode().rstrip("=")


def _decode_token(token: str) -> str:
    try:
        member = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError) as error:
        raise bad_page_token() from error
    created, separator, id = member.partition(":")
    if not (created.isdigit() and separator and id):
        raise bad_page_token()
    return member


def bad_page_token() -> InvalidArgument:
    """The error of a page token that this server did not make."""
    return InvalidArgument(
        "the page token is not one of this server",
        reason="BAD_PAGE_TOKEN",
        field="page_token",
        hint="Use next_page_token of the page before, or leave it empty to begin anew.",
    )
