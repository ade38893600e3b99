"""A small embedder and orchestrator over real gRPC, kept in memory, that can be told to misbehave.

It implements the generated servicer interfaces, so the SDK and the command line are tested through real channels,
statuses and streams, without the models.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
from google.protobuf import empty_pb2
from google.rpc.status_pb2 import Status

from warmer import errors, names
from warmer.channel import server_options
from warmer.v1 import captioner_pb2, common_pb2, embedder_pb2, orchestrator_pb2, rewriter_pb2
from warmer.v1 import embedder_pb2_grpc as embedder_grpc
from warmer.v1 import orchestrator_pb2_grpc as orchestrator_grpc

DIMENSIONS = 4


def abort(context: grpc.ServicerContext, error: errors.WarmerError) -> None:
    """Ends the call with the status that carries the whole error."""
    details = ((errors.STATUS_DETAILS_KEY, errors.to_status(error).SerializeToString()),)
    context.set_trailing_metadata(details)
    context.abort(error.code, error.message)


class Calls:
    """What the server saw, and what it is told to do."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.metadata: list[dict[str, str]] = []
        self.remaining: list[float] = []
        self.unavailable: Counter[str] = Counter()  # method -> how many calls fail first
        self.delays: dict[str, float] = {}
        self.break_after: list[int] = []  # refine streams break after this many events, one entry for each stream
        self.forget_round = False
        self.silent_adding = False
        self.break_adding_after: int | None = None

    def enter(self, name: str, context: grpc.ServicerContext) -> None:
        self.counts[name] += 1
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())
        if name in self.delays:
            time.sleep(self.delays[name])
        if self.unavailable[name] > 0:
            self.unavailable[name] -= 1
            abort(context, errors.Unavailable("warming up", reason="NOT_READY", retry_after_s=0.05))


class Embedder(embedder_grpc.EmbedderServiceServicer):
    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.collections: dict[str, dict[str, bytes]] = {}
        self.sources: dict[str, str] = {}
        self.revision = 0
        self.last_search: common_pb2.SearchSpec | None = None
        self.received = 0

    def GetModel(self, request: Any, context: Any) -> common_pb2.Model:
        self.calls.enter("GetModel", context)
        return common_pb2.Model(id="tiny-1", backend="test", dimensions=DIMENSIONS, max_tokens=8)

    def _need(self, name: str, context: Any) -> dict[str, bytes]:
        id = names.collection_id(name)
        if id not in self.collections:
            abort(
                context,
                errors.NotFound(
                    f"there is no collection {id!r}",
                    reason="COLLECTION_NOT_FOUND",
                    hint="List them with collections.list().",
                    resource=name,
                ),
            )
        return self.collections[id]

    def _collection(self, id: str) -> embedder_pb2.Collection:
        message = embedder_pb2.Collection(
            name=names.collection_name(id),
            model="tiny-1",
            dimensions=DIMENSIONS,
            distance=embedder_pb2.Collection.DISTANCE_INNER_PRODUCT,
            image_count=len(self.collections[id]),
            revision=self.revision,
            state=embedder_pb2.Collection.STATE_READY,
        )
        message.create_time.FromSeconds(1_700_000_000)
        return message

    def CreateCollection(self, request: Any, context: Any) -> embedder_pb2.Collection:
        self.calls.enter("CreateCollection", context)
        if request.collection_id in self.collections:
            abort(context, errors.AlreadyExists("it exists", reason="COLLECTION_EXISTS"))
        self.collections[request.collection_id] = {}
        return self._collection(request.collection_id)

    def GetCollection(self, request: Any, context: Any) -> embedder_pb2.Collection:
        self.calls.enter("GetCollection", context)
        self._need(request.name, context)
        return self._collection(names.collection_id(request.name))

    def ListCollections(self, request: Any, context: Any) -> embedder_pb2.ListCollectionsResponse:
        """Pages of one, so that paging is tested."""
        self.calls.enter("ListCollections", context)
        ids = sorted(self.collections)
        start = int(request.page_token or 0)
        token = str(start + 1) if start + 1 < len(ids) else ""
        return embedder_pb2.ListCollectionsResponse(
            collections=[self._collection(id) for id in ids[start : start + 1]], next_page_token=token
        )

    def DeleteCollection(self, request: Any, context: Any) -> empty_pb2.Empty:
        self.calls.enter("DeleteCollection", context)
        self._need(request.name, context)
        del self.collections[names.collection_id(request.name)]
        return empty_pb2.Empty()

    def AddImages(self, request_iterator: Any, context: Any) -> Iterator[embedder_pb2.AddImagesResponse]:
        self.calls.enter("AddImages", context)
        images: dict[str, bytes] | None = None
        for request in request_iterator:
            if images is None:
                images = self._need(request.collection, context)
            if not request.HasField("item"):
                continue
            self.received += 1
            if self.calls.silent_adding:
                continue
            if self.received == self.calls.break_adding_after:
                abort(context, errors.Unavailable("going away", reason="DRAINING"))
            yield embedder_pb2.AddImagesResponse(
                committed_offset=request.item.offset, revision=self.revision, results=[self._add(images, request.item)]
            )
        while self.calls.silent_adding and context.is_active():
            time.sleep(0.01)

    def _add(self, images: dict[str, bytes], item: embedder_pb2.AddImagesItem) -> embedder_pb2.AddImagesResult:
        result = embedder_pb2.AddImagesResult(offset=item.offset, image_id=item.image_id)
        if not item.content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            error = errors.InvalidArgument("not an image", reason="NOT_AN_IMAGE", hint="Send JPEG, PNG, ...")
            result.status.CopyFrom(errors.to_status(error))
            result.outcome = embedder_pb2.AddImagesResult.OUTCOME_FAILED
            return result
        before = images.get(item.image_id)
        images[item.image_id] = item.content
        self.sources[item.image_id] = item.source
        self.revision += before != item.content
        result.outcome = {
            before is None: embedder_pb2.AddImagesResult.OUTCOME_ADDED,
            before == item.content: embedder_pb2.AddImagesResult.OUTCOME_UNCHANGED,
        }.get(True, embedder_pb2.AddImagesResult.OUTCOME_REPLACED)
        result.sha256 = hashlib.sha256(item.content).hexdigest()
        result.status.CopyFrom(Status())
        return result

    def RemoveImages(self, request: Any, context: Any) -> embedder_pb2.RemoveImagesResponse:
        self.calls.enter("RemoveImages", context)
        images = self._need(request.collection, context)
        missing = [id for id in request.image_ids if images.pop(id, None) is None]
        return embedder_pb2.RemoveImagesResponse(
            removed_count=len(request.image_ids) - len(missing), missing_image_ids=missing, revision=self.revision
        )

    def _image(self, name: str, context: Any) -> bytes:
        collection, image = names.image_parts(name)
        content = self._need(names.collection_name(collection), context).get(image)
        if content is None:
            abort(context, errors.NotFound(f"no image {image!r}", reason="IMAGE_NOT_FOUND", resource=name))
        return content or b""

    def GetImage(self, request: Any, context: Any) -> embedder_pb2.Image:
        self.calls.enter("GetImage", context)
        content = self._image(request.name, context)
        return embedder_pb2.Image(name=request.name, media_type="image/jpeg", size_bytes=len(content))

    def ListImages(self, request: Any, context: Any) -> embedder_pb2.ListImagesResponse:
        self.calls.enter("ListImages", context)
        ids = sorted(self._need(request.collection, context))
        start = int(request.page_token or 0)
        found = [embedder_pb2.Image(name=f"{request.collection}/images/{id}") for id in ids[start : start + 2]]
        return embedder_pb2.ListImagesResponse(
            images=found, next_page_token=str(start + 2) if start + 2 < len(ids) else ""
        )

    def GetImageContent(self, request: Any, context: Any) -> Iterator[embedder_pb2.GetImageContentResponse]:
        self.calls.enter("GetImageContent", context)
        content = self._image(request.name, context)
        for start in range(0, len(content), 10):
            yield embedder_pb2.GetImageContentResponse(media_type="image/jpeg", chunk=content[start : start + 10])

    def EmbedText(self, request: Any, context: Any) -> embedder_pb2.EmbedTextResponse:
        self.calls.enter("EmbedText", context)
        if not all(text.strip() for text in request.texts):
            abort(context, errors.InvalidArgument("empty", reason="EMPTY_QUERY", field="texts"))
        rows = [np.full(DIMENSIONS, len(text), "<f4") for text in request.texts]
        cut = [
            common_pb2.Truncation(index=i, tokens=len(text.split()), max_tokens=8)
            for i, text in enumerate(request.texts)
            if len(text.split()) > 8
        ]
        return embedder_pb2.EmbedTextResponse(
            vectors=b"".join(row.tobytes() for row in rows), dimensions=DIMENSIONS, truncations=cut
        )

    def EmbedImages(self, request: Any, context: Any) -> embedder_pb2.EmbedImagesResponse:
        self.calls.enter("EmbedImages", context)
        bad = errors.to_status(errors.InvalidArgument("not an image", reason="NOT_AN_IMAGE"))
        vector = np.full(DIMENSIONS, 0.5, "<f4").tobytes()
        return embedder_pb2.EmbedImagesResponse(
            embeddings=[
                embedder_pb2.ImageEmbedding(vector=vector)
                if image.startswith(b"\xff\xd8")
                else embedder_pb2.ImageEmbedding(status=bad)
                for image in request.images
            ],
            dimensions=DIMENSIONS,
        )

    def Search(self, request: Any, context: Any) -> embedder_pb2.SearchResponse:
        self.calls.enter("Search", context)
        images = self._need(request.search.collection, context)
        self.last_search = request.search
        found = [id for id in sorted(images) if id not in request.search.excluded_image_ids]
        hits = hits_of(found[: request.search.top_k])
        for hit in hits[: request.search.rerank_count]:
            hit.match = 0.5
        return embedder_pb2.SearchResponse(hits=hits, revision=self.revision)

    def RankImages(self, request: Any, context: Any) -> embedder_pb2.RankImagesResponse:
        self.calls.enter("RankImages", context)
        ids = sorted(self._need(request.search.collection, context))
        ranks = [
            embedder_pb2.ImageRank(image_id=id, rank=ids.index(id) + 1)
            if id in ids
            else embedder_pb2.ImageRank(image_id=id)
            for id in request.image_ids
        ]
        return embedder_pb2.RankImagesResponse(ranks=ranks, candidates=len(ids))


class Orchestrator(orchestrator_grpc.OrchestratorServiceServicer):
    def __init__(self, calls: Calls, embedder: Embedder) -> None:
        self.calls = calls
        self.embedder = embedder
        self.sessions: dict[str, orchestrator_pb2.Session] = {}
        self.rounds: dict[str, list[orchestrator_pb2.Round]] = {}
        self.requests: list[Any] = []
        self.events: dict[str, list[orchestrator_pb2.RefineSessionResponse]] = {}

    def _need(self, name: str, context: Any) -> orchestrator_pb2.Session:
        if name not in self.sessions:
            abort(context, errors.NotFound("no such session", reason="SESSION_NOT_FOUND", resource=name))
        return self.sessions[name]

    def CreateSession(self, request: Any, context: Any) -> orchestrator_pb2.Session:
        self.calls.enter("CreateSession", context)
        self.requests.append(request)
        session = orchestrator_pb2.Session()
        session.CopyFrom(request.session)
        session.name = names.session_name(request.session_id or f"s{len(self.sessions) + 1}")
        if session.parent_round:
            parent, _ = names.round_parts(session.parent_round)
            session.collection = self._need(names.session_name(parent), context).collection
        session.state = orchestrator_pb2.Session.STATE_ACTIVE
        session.page_size = session.page_size or 10
        session.etag = "e0"
        self.sessions[session.name] = session
        self.rounds[session.name] = []
        return session

    def GetSession(self, request: Any, context: Any) -> orchestrator_pb2.Session:
        self.calls.enter("GetSession", context)
        return self._need(request.name, context)

    def ListSessions(self, request: Any, context: Any) -> orchestrator_pb2.ListSessionsResponse:
        self.calls.enter("ListSessions", context)
        return orchestrator_pb2.ListSessionsResponse(sessions=list(self.sessions.values()))

    def UpdateSession(self, request: Any, context: Any) -> orchestrator_pb2.Session:
        self.calls.enter("UpdateSession", context)
        self.requests.append(request)
        session = self._need(request.session.name, context)
        for path in request.update_mask.paths:
            value = getattr(request.session, path)
            session.ttl.CopyFrom(value) if path == "ttl" else setattr(session, path, value)
        return session

    def DeleteSession(self, request: Any, context: Any) -> empty_pb2.Empty:
        self.calls.enter("DeleteSession", context)
        self._need(request.name, context)
        del self.sessions[request.name]
        return empty_pb2.Empty()

    def ListRounds(self, request: Any, context: Any) -> orchestrator_pb2.ListRoundsResponse:
        self.calls.enter("ListRounds", context)
        self._need(request.session, context)
        return orchestrator_pb2.ListRoundsResponse(rounds=self.rounds[request.session])

    def SearchSession(self, request: Any, context: Any) -> orchestrator_pb2.Round:
        self.calls.enter("SearchSession", context)
        self.requests.append(request)
        self._need(request.session, context)
        return self._round(request.session, request.text, None)

    def RefineSession(self, request: Any, context: Any) -> Iterator[orchestrator_pb2.RefineSessionResponse]:
        self.calls.enter("RefineSession", context)
        self.requests.append(request)
        self._need(request.session, context)
        if request.etag == "old":
            abort(context, errors.Aborted("the session has changed", reason="STALE_ETAG"))
        if request.request_id not in self.events:
            self.events[request.request_id] = self._run(request)
        limit = self.calls.break_after.pop(0) if self.calls.break_after else None
        for number, event in enumerate(self.events[request.request_id]):
            if number == limit:
                abort(context, errors.Unavailable("going away", reason="DRAINING"))
            yield event

    def _run(self, request: Any) -> list[orchestrator_pb2.RefineSessionResponse]:
        response = orchestrator_pb2.RefineSessionResponse
        stage = orchestrator_pb2.StageEvent
        relevant = list(request.feedback.relevant_image_ids)
        started = stage(stage=orchestrator_pb2.STAGE_CAPTION, phase=stage.PHASE_STARTED)
        skipped = stage(stage=orchestrator_pb2.STAGE_REWRITE, phase=stage.PHASE_SKIPPED, detail="too late")
        finished = stage(stage=orchestrator_pb2.STAGE_CAPTION, phase=stage.PHASE_FINISHED)
        finished.duration.FromMilliseconds(1500)
        rewrite = rewriter_pb2.Rewrite(
            text="a dog, on grass", fell_back=True, fallback_reason=rewriter_pb2.Rewrite.FALLBACK_REASON_TOO_LONG
        )
        parts: list[Any] = [
            response(stage=started),
            response(early_hits=orchestrator_pb2.EarlyHits(hits=hits_of(["b.jpg"]))),
            *(response(caption_delta=captioner_pb2.CaptionDelta(key=id, text="a d")) for id in relevant),
            *(response(caption=captioner_pb2.Caption(key=id, text="a dog")) for id in relevant),
            response(stage=finished),
            response(rewrite_delta="a dog"),
            response(rewrite=rewrite),
            response(stage=skipped),
            response(),  # an event newer than the client
        ]
        if not self.calls.forget_round:
            parts.append(response(round=self._round(request.session, "a dog, on grass", request.feedback, rewrite)))
        for sequence, part in enumerate(parts, 1):
            part.sequence = sequence
        return parts

    def _round(self, session: str, query: str, feedback: Any, rewrite: Any = None) -> orchestrator_pb2.Round:
        rounds = self.rounds[session]
        collection = self.sessions[session].collection
        ids = sorted(self.embedder.collections.get(names.collection_id(collection), {}))
        message = orchestrator_pb2.Round(
            name=f"{session}/rounds/{len(rounds)}",
            index=len(rounds),
            query=query,
            feedback=feedback,
            rewrite=rewrite,
            search=common_pb2.SearchSpec(collection=collection, terms=[common_pb2.QueryTerm(text=query)], top_k=10),
            hits=hits_of(ids),
            strategy=orchestrator_pb2.STRATEGY_REWRITE,
            degraded_stages=[orchestrator_pb2.STAGE_REWRITE] if feedback else [],
            etag=f"e{len(rounds) + 1}",
        )
        rounds.append(message)
        self.sessions[session].round_count = len(rounds)
        return message

    def FinishSession(self, request: Any, context: Any) -> orchestrator_pb2.Session:
        self.calls.enter("FinishSession", context)
        session = self._need(request.session, context)
        session.state = orchestrator_pb2.Session.STATE_FINISHED
        session.found_image_id = request.found_image_id
        return session


class Health(grpc.GenericRpcHandler):
    """grpc.health.v1 with one answer; raw bytes, as the wire has them."""

    def __init__(self) -> None:
        self.answer = b"\x08\x01"

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.answer)


class Server:
    """Both services on one loopback port and one unix socket."""

    def __init__(self, socket: str) -> None:
        self.calls = Calls()
        self.health = Health()
        self.embedder = Embedder(self.calls)
        self.orchestrator = Orchestrator(self.calls, self.embedder)
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=server_options())
        embedder_grpc.add_EmbedderServiceServicer_to_server(self.embedder, self._server)
        orchestrator_grpc.add_OrchestratorServiceServicer_to_server(self.orchestrator, self._server)
        self._server.add_generic_rpc_handlers((self.health,))
        self.target = f"unix:{socket}"
        self._server.add_insecure_port(self.target)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.tcp_target = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self) -> threading.Event:
        return self._server.stop(None)


def hits_of(ids: list[str]) -> list[common_pb2.Hit]:
    """Hits with falling scores."""
    return [
        common_pb2.Hit(image_id=id, score=1 - i / 10, similarity=1 - i / 10, sha256=f"{i:064x}")
        for i, id in enumerate(ids)
    ]
