"""Sessions as resources: made, branched, read, listed, changed, finished, deleted."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.orchestrator import conversion, problems, validation
from services.orchestrator.options import OrchestratorOptions
from services.orchestrator.round.peers import Embedder
from services.orchestrator.store.database import Value
from services.orchestrator.store.keys import SessionRef
from services.orchestrator.store.records import ACTIVE, FINISHED, SessionRecord, etag
from services.orchestrator.store.sessions import Creation, SessionStore
from warmer.errors import AlreadyExists, FailedPrecondition, InvalidArgument, to_status
from warmer.names import check_session_id, collection_id, round_parts, session_id, session_name
from warmer.v1 import embedder_pb2
from warmer.v1 import orchestrator_pb2 as pb

_UPDATABLE = ("strategy", "page_size", "display_name", "ttl")


@dataclass(frozen=True)
class _Seed:
    """What a new session begins with: its fields, and the rounds and streamed images of the parent of a branch."""

    fields: Mapping[str, Value]
    rounds: Sequence[pb.Round]
    streamed: Mapping[str, str]


class Hunts:
    """The session methods of the service. Raises WarmerError."""

    def __init__(self, store: SessionStore, embedder: Embedder, options: OrchestratorOptions) -> None:
        self._store = store
        self._embedder = embedder
        self._options = options

    async def create(self, tenant: str, request: pb.CreateSessionRequest) -> SessionRecord:
        """Makes a session; a repeated request id gives the session that it made."""
        request_id = validation.request_id(request.request_id)
        id = check_session_id(request.session_id) if request.session_id else secrets.token_hex(8)
        if not request_id:
            return await self._make(SessionRef(tenant, id), request, secrets.token_hex(6))
        ttl_ms = int(self._options.session_ttl_s * 1000)
        digest = validation.digest(request)
        note = await self._store.claim_creation(tenant, request_id, id, digest, ttl_ms)
        if note.digest != digest:
            raise problems.conflicting_request_id(request_id)
        ref = SessionRef(tenant, note.session_id)
        if note.done:
            return await self.get(ref)
        # The incarnation follows from the request id, so that two that race make one session.
        record = await self._make(ref, request, hashlib.sha256(request_id.encode()).hexdigest()[:12])
        done = Creation(note.session_id, digest, done=True)
        await self._store.complete_creation(tenant, request_id, done, ttl_ms)
        return record

    async def get(self, ref: SessionRef) -> SessionRecord:
        """One session."""
        record = (await self._store.load(ref)).session
        if record is None:
            raise problems.session_not_found(ref)
        return record

    async def page(self, tenant: str, request: pb.ListSessionsRequest) -> tuple[list[SessionRecord], str]:
        """A page of sessions, newest first, and the token of the next."""
        return await self._store.page(tenant, validation.list_size(request.page_size), request.page_token)

    async def rounds(self, ref: SessionRef, request: pb.ListRoundsRequest) -> tuple[list[pb.Round], str]:
        """A page of rounds, oldest first, and the token of the next."""
        size, offset = validation.list_size(request.page_size), validation.decode_offset(request.page_token)
        await self.get(ref)
        stored = await self._store.rounds(ref, offset, size + 1)
        token = validation.encode_offset(offset + size) if len(stored) > size else ""
        return [pb.Round.FromString(data) for data in stored[:size]], token

    async def update(self, ref: SessionRef, request: pb.UpdateSessionRequest) -> SessionRecord:
        """Changes what the mask names, or without one all that is set."""
        session = request.session
        set_paths = [path for path in _UPDATABLE if _is_set(session, path)]
        paths = list(request.update_mask.paths) or set_paths
        unknown = [path for path in paths if path not in _UPDATABLE]
        if unknown:
            raise InvalidArgument(
                f"cannot change {', '.join(map(repr, unknown))}",
                reason="BAD_FIELD_MASK",
                field="update_mask",
                hint=f"Name some of: {', '.join(_UPDATABLE)}.",
            )
        changes = {name: value for name, value in self._fields(session).items() if name.removesuffix("_ms") in paths}
        return await self._change(ref, session.etag, changes)

    async def delete(self, ref: SessionRef, known_etag: str) -> None:
        """Deletes a session with its rounds; a running round ends."""
        while True:
            record = await self.get(ref)
            _check_etag(record, known_etag)
            if await self._store.delete(record, any_version=not known_etag):
                return

    async def finish(self, ref: SessionRef, request: pb.FinishSessionRequest) -> SessionRecord:
        """Ends the hunt, and a round that runs. Finishing again with the same find changes nothing."""
        found = request.found_image_id
        ended = to_status(problems.session_finished(ref)).SerializeToString()
        while True:
            look = await self._store.load(ref, image_ids=[found] if found else [])
            record = look.session
            if record is None:
                raise problems.session_not_found(ref)
            if record.finished:
                if record.found_image_id == found:
                    return record
                raise problems.session_finished(ref)
            _check_etag(record, request.etag)
            if found and look.streamed[found] is None:
                raise problems.not_streamed(ref, [found], "found_image_id")
            changes: dict[str, Value] = {"state": FINISHED, "found_image_id": found}
            changed = await self._store.update(record, changes, ends_run_with=ended)
            if changed is not None:
                return changed

    async def _change(self, ref: SessionRef, known_etag: str, changes: Mapping[str, Value]) -> SessionRecord:
        while True:
            record = await self.get(ref)
            _check_etag(record, known_etag)
            if not changes:
                return record
            changed = await self._store.update(record, changes)
            if changed is not None:
                return changed

    async def _make(self, ref: SessionRef, request: pb.CreateSessionRequest, incarnation: str) -> SessionRecord:
        seed = await (self._branch if request.session.parent_round else self._empty)(ref.tenant, request.session)
        rounds = conversion.branched_rounds(seed.rounds, ref.id, etag(incarnation, 1))
        stored = [round.SerializeToString() for round in rounds]
        record = await self._store.create(ref, seed.fields, stored, seed.streamed, incarnation)
        if record is None:
            raise AlreadyExists(
                f"the session id {ref.id} is taken",
                reason="SESSION_EXISTS",
                resource=session_name(ref.id),
                hint="Choose another id, or leave it empty.",
            )
        return record

    async def _empty(self, _: str, session: pb.Session) -> _Seed:
        if not session.collection:
            raise InvalidArgument(
                "the session has no collection",
                reason="NO_COLLECTION",
                field="session.collection",
                hint="Name one, collections/{collection}, or a parent_round to go on from.",
            )
        collection_id(session.collection)
        collection = await self._embedder.collection(session.collection)
        if collection.state == embedder_pb2.Collection.STATE_MODEL_MISMATCH:
            model = await self._embedder.model()
            raise FailedPrecondition(
                f"{session.collection} was embedded by {collection.model}, the embedder runs {model}",
                reason="MODEL_MISMATCH",
                resource=session.collection,
                hint="Start the embedder with the collection's model, or run `warmer collections reembed`.",
                metadata={"collection_model": collection.model, "server_model": model},
            )
        return _Seed({**self._fields(session), **_first(session.collection, "")}, [], {})

    async def _branch(self, tenant: str, session: pb.Session) -> _Seed:
        """Begins with rounds 0 to n of another session; what the new session leaves unset is the parent's."""
        parent_id, index = round_parts(session.parent_round)
        parent = SessionRef(tenant, parent_id)
        look = await self._store.load(parent, rounds=True)
        if look.session is None:
            raise problems.session_not_found(parent)
        if index >= len(look.rounds):
            raise problems.round_not_found(parent, index)
        if session.collection not in ("", look.session.collection):
            raise InvalidArgument(
                f"the parent searches {look.session.collection}, not {session.collection}",
                reason="COLLECTION_DIFFERS",
                field="session.collection",
                hint="Leave the collection out when there is a parent_round.",
            )
        rounds = [pb.Round.FromString(data) for data in look.rounds[: index + 1]]
        fields = {**_inherited(look.session), **self._set_fields(session)}
        fields.update(_first(look.session.collection, session.parent_round))
        return _Seed(fields, rounds, await self._streamed(parent, rounds))

    async def _streamed(self, parent: SessionRef, rounds: Sequence[pb.Round]) -> dict[str, str]:
        """Images of the rounds' pages, and those that were marked from early hits, with their sha256."""
        streamed = {hit.image_id: hit.sha256 for round in rounds for hit in round.hits}
        other = {id for round in rounds for id in round.displayed_image_ids} - streamed.keys()
        look = await self._store.load(parent, image_ids=sorted(other))
        return {**streamed, **{id: sha256 for id, sha256 in look.streamed.items() if sha256 is not None}}

    def _fields(self, session: pb.Session) -> dict[str, Value]:
        """What can be chosen, checked, with defaults for what is unset."""
        ttl = validation.ttl_ms(session.ttl) if session.HasField("ttl") else int(self._options.session_ttl_s * 1000)
        return {
            "strategy": conversion.strategy_name(session.strategy, self._options.default_strategy),
            "page_size": validation.page_size(session.page_size or self._options.default_page_size),
            "display_name": validation.display_name(session.display_name),
            "ttl_ms": ttl,
        }

    def _set_fields(self, session: pb.Session) -> dict[str, Value]:
        fields = self._fields(session)
        return {name: value for name, value in fields.items() if _is_set(session, name.removesuffix("_ms"))}


def _first(collection: str, parent_round: str) -> dict[str, Value]:
    return {"collection": collection, "parent_round": parent_round, "state": ACTIVE, "found_image_id": ""}


def _inherited(parent: SessionRecord) -> dict[str, Value]:
    return {
        "strategy": parent.strategy,
        "page_size": parent.page_size,
        "display_name": parent.display_name,
        "ttl_ms": parent.ttl_ms,
    }


def _is_set(session: pb.Session, path: str) -> bool:
    return session.HasField("ttl") if path == "ttl" else bool(getattr(session, path))


def _check_etag(record: SessionRecord, known: str) -> None:
    if known not in ("", record.etag):
        raise problems.stale_etag(record.ref)


def ref_of(tenant: str, name: str) -> SessionRef:
    """The session that a resource name stands for."""
    return SessionRef(tenant, session_id(name))
