"""``client.sessions`` and the session, for asyncio; arguments and errors are those of :mod:`warmer._sync.sessions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing

from warmer import _requests, _session_requests
from warmer._aio.calls import call, pages, stream
from warmer._refining import Attachment, round_of
from warmer.errors import WarmerError
from warmer.names import session_name
from warmer.types import Event, Round, SessionInfo, Strategy
from warmer.v1 import orchestrator_pb2, orchestrator_pb2_grpc


class Session:
    """One person's hunt. Made by ``client.sessions.create`` or ``client.sessions.get``.

    Attributes:
        info: the session as the server last gave it; :meth:`refresh` asks again.
    """

    def __init__(
        self, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, info: SessionInfo, round_timeout_s: float
    ) -> None:
        self.info = info
        self._stub = stub
        self._round_timeout_s = round_timeout_s

    @property
    def id(self) -> str:
        """The id of the session."""
        return self.info.id

    async def refresh(self) -> SessionInfo:
        """Asks the server for the session as it is now. Raises NotFound when it was deleted or has expired."""
        request = orchestrator_pb2.GetSessionRequest(name=session_name(self.id))
        self.info = SessionInfo.from_proto(await call(self._stub.GetSession, request))
        return self.info

    async def search(
        self,
        text: str = "",
        *,
        image: _requests.ImageInput | None = None,
        image_id: str | None = None,
        request_id: str | None = None,
        etag: str | None = None,
        timeout_s: float | None = None,
    ) -> Round:
        """Round 0: by text, by an example image, or by both."""
        content = None if image is None else await asyncio.to_thread(_requests.read_image, image)
        request = _session_requests.search_session(
            self.id, text=text, image=content, image_id=image_id, request_id=request_id, etag=etag
        )
        return Round.from_proto(await call(self._stub.SearchSession, request, timeout_s or self._round_timeout_s))

    async def refine_stream(
        self,
        relevant: str | Iterable[str] = (),
        irrelevant: str | Iterable[str] = (),
        comment: str = "",
        *,
        displayed: Iterable[str] | None = None,
        request_id: str | None = None,
        etag: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Event]:
        """The next round as it happens: stages, early hits, captions, the rewrite, and at the end a ``RoundReady``."""
        request = _session_requests.refine_session(
            self.id,
            relevant=relevant,
            irrelevant=irrelevant,
            comment=comment,
            displayed=displayed,
            request_id=request_id,
            etag=etag,
        )
        attachment = Attachment(timeout_s or self._round_timeout_s)
        while not attachment.done():
            try:
                messages = stream(self._stub.RefineSession, request, attachment.remaining_s)
                async with aclosing(messages):
                    async for message in messages:
                        event = attachment.take(message)
                        if event is not None:
                            yield event
                attachment.check_ended()
            except WarmerError as error:
                if attachment.done():
                    return  # the round is here; how its stream closed changes nothing
                await asyncio.sleep(attachment.after_break(error))

    async def refine(
        self,
        relevant: str | Iterable[str] = (),
        irrelevant: str | Iterable[str] = (),
        comment: str = "",
        *,
        displayed: Iterable[str] | None = None,
        request_id: str | None = None,
        etag: str | None = None,
        timeout_s: float | None = None,
    ) -> Round:
        """The next round, once it is there; see :meth:`refine_stream`. Without any feedback it is the next page."""
        last: Event | None = None
        async for event in self.refine_stream(
            relevant,
            irrelevant,
            comment,
            displayed=displayed,
            request_id=request_id,
            etag=etag,
            timeout_s=timeout_s,
        ):
            last = event
        return round_of(last).round

    async def rounds(self) -> AsyncIterator[Round]:
        """The rounds so far, oldest first; pages are fetched as they are needed."""
        name = session_name(self.id)

        async def fetch(token: str) -> orchestrator_pb2.ListRoundsResponse:
            return await call(self._stub.ListRounds, orchestrator_pb2.ListRoundsRequest(session=name, page_token=token))

        async for page in pages(fetch):
            for message in page.rounds:
                yield Round.from_proto(message)

    async def update(
        self,
        *,
        strategy: Strategy | None = None,
        page_size: int | None = None,
        display_name: str | None = None,
        ttl_s: float | None = None,
        etag: str | None = None,
    ) -> SessionInfo:
        """Changes what is given; the rest stays."""
        session, paths = _session_requests.session_fields(
            strategy=strategy, page_size=page_size, display_name=display_name, ttl_s=ttl_s
        )
        request = _session_requests.update_session(self.id, session, paths, etag)
        self.info = SessionInfo.from_proto(await call(self._stub.UpdateSession, request))
        return self.info

    async def finish(self, found: str = "", *, etag: str | None = None) -> SessionInfo:
        """Ends the hunt, with the id of the image that was found or with none."""
        request = _session_requests.finish_session(self.id, found, etag)
        self.info = SessionInfo.from_proto(await call(self._stub.FinishSession, request))
        return self.info

    async def delete(self, *, etag: str | None = None) -> None:
        """Deletes the session with its rounds."""
        await call(
            self._stub.DeleteSession,
            orchestrator_pb2.DeleteSessionRequest(name=session_name(self.id), etag=etag or ""),
        )


class Sessions:
    """Starts, finds, lists and deletes sessions."""

    def __init__(self, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, round_timeout_s: float) -> None:
        self._stub = stub
        self._round_timeout_s = round_timeout_s

    async def create(
        self,
        collection: str | None = None,
        *,
        strategy: Strategy | None = None,
        page_size: int | None = None,
        display_name: str | None = None,
        ttl_s: float | None = None,
        id: str | None = None,
        parent_round: tuple[str, int] | None = None,
        request_id: str | None = None,
    ) -> Session:
        """Starts a session in a collection, or from a round of another session (go back, branch)."""
        session, _ = _session_requests.session_fields(
            strategy=strategy, page_size=page_size, display_name=display_name, ttl_s=ttl_s
        )
        request = _session_requests.create_session(
            session, collection=collection, parent_round=parent_round, id=id, request_id=request_id
        )
        return self._bound(await call(self._stub.CreateSession, request))

    async def get(self, id: str) -> Session:
        """A session. Raises NotFound (``SESSION_NOT_FOUND``) if it never was, was deleted or has expired."""
        request = orchestrator_pb2.GetSessionRequest(name=session_name(id))
        return self._bound(await call(self._stub.GetSession, request))

    async def list(self) -> AsyncIterator[SessionInfo]:
        """All sessions, newest first; pages are fetched as they are needed."""
        async for page in pages(self._sessions_page):
            for message in page.sessions:
                yield SessionInfo.from_proto(message)

    async def delete(self, id: str, *, etag: str | None = None) -> None:
        """Deletes a session with its rounds. Raises NotFound."""
        await call(
            self._stub.DeleteSession, orchestrator_pb2.DeleteSessionRequest(name=session_name(id), etag=etag or "")
        )

    async def _sessions_page(self, token: str) -> orchestrator_pb2.ListSessionsResponse:
        request = orchestrator_pb2.ListSessionsRequest(page_size=_requests.PAGE_SIZE, page_token=token)
        return await call(self._stub.ListSessions, request)

    def _bound(self, message: orchestrator_pb2.Session) -> Session:
        return Session(self._stub, SessionInfo.from_proto(message), self._round_timeout_s)
