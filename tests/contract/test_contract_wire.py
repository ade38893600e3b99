"""The contract as other languages meet it: raw gRPC, without the checks that the SDK makes before it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from running import Running

from warmer.channel import MAX_MESSAGE_BYTES
from warmer.v1 import common_pb2, embedder_pb2, embedder_pb2_grpc, orchestrator_pb2, orchestrator_pb2_grpc

GALLERY = "collections/gallery"


class Wire:
    """Stubs on channels that know nothing of Warmer but its message limit."""

    def __init__(self, running: Running) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channels = [
            grpc.insecure_channel(running.targets[name], options=limits) for name in ("embedder", "orchestrator")
        ]
        self.embedder = embedder_pb2_grpc.EmbedderServiceStub(self.channels[0])
        self.orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(self.channels[1])

    def search(self, collection: str = GALLERY, text: str = "a cat", **fields: object) -> embedder_pb2.SearchResponse:
        terms = [common_pb2.QueryTerm(text=text)]
        spec = common_pb2.SearchSpec(collection=collection, terms=terms, **fields)
        return self.embedder.Search(embedder_pb2.SearchRequest(search=spec), timeout=30)

    def session(self) -> orchestrator_pb2.Session:
        session = orchestrator_pb2.Session(collection=GALLERY, page_size=3)
        return self.orchestrator.CreateSession(orchestrator_pb2.CreateSessionRequest(session=session), timeout=30)


@pytest.fixture
def wire(running: Running) -> Iterator[Wire]:
    wire = Wire(running)
    yield wire
    for channel in wire.channels:
        channel.close()


def refine(wire: Wire, **fields: object) -> list[orchestrator_pb2.RefineSessionResponse]:
    session = wire.session()
    first = orchestrator_pb2.SearchSessionRequest(session=session.name, text="a cat")
    wire.orchestrator.SearchSession(first, timeout=30)
    request = orchestrator_pb2.RefineSessionRequest(session=session.name, **fields)
    return list(wire.orchestrator.RefineSession(request, timeout=30))


REFUSED: dict[str, tuple[Callable[[Wire], object], grpc.StatusCode, str]] = {
    "top_k": (lambda w: w.search(top_k=1_000_000), grpc.StatusCode.INVALID_ARGUMENT, "BAD_TOP_K"),
    "slash": (lambda w: w.search("collections/a/b"), grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID"),
    "no name": (lambda w: w.search(""), grpc.StatusCode.INVALID_ARGUMENT, "BAD_ID"),
    "empty": (lambda w: w.search(text=" "), grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_QUERY"),
    "no terms": (
        lambda w: w.embedder.Search(
            embedder_pb2.SearchRequest(search=common_pb2.SearchSpec(collection=GALLERY)), timeout=30
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "EMPTY_QUERY",
    ),
    "unknown": (lambda w: w.search("collections/nowhere"), grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND"),
    "session": (
        lambda w: w.orchestrator.GetSession(orchestrator_pb2.GetSessionRequest(name="sessions/none"), timeout=30),
        grpc.StatusCode.NOT_FOUND,
        "SESSION_NOT_FOUND",
    ),
    "unseen": (
        lambda w: refine(w, feedback=orchestrator_pb2.Feedback(relevant_image_ids=["never"])),
        grpc.StatusCode.INVALID_ARGUMENT,
        "IMAGE_NOT_STREAMED",
    ),
    "stale": (lambda w: refine(w, etag="old"), grpc.StatusCode.ABORTED, "STALE_ETAG"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_google_rpc_statuses(wire: Wire, case: str) -> None:
    ask, code, reason = REFUSED[case]
    with pytest.raises(grpc.RpcError) as caught:
        ask(wire)
    assert caught.value.code() is code
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert status.message == caught.value.details()
    info = error_details_pb2.ErrorInfo()
    (detail,) = [detail for detail in status.details if detail.Is(info.DESCRIPTOR)]
    detail.Unpack(info)
    assert (info.reason, info.domain) == (reason, "warmer")
    assert info.metadata["hint"]


def test_a_missing_top_k_is_ten(wire: Wire) -> None:
    assert len(wire.search(top_k=0).hits) == 10


def test_a_refine_without_request_id_is_answered(wire: Wire) -> None:
    *_, last = refine(wire)
    assert last.round.index == 1
    assert len(last.round.hits) == 3


def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(wire: Wire) -> None:
    content = bytes(MAX_MESSAGE_BYTES)
    with pytest.raises(grpc.RpcError) as caught:
        wire.embedder.EmbedImages(embedder_pb2.EmbedImagesRequest(images=[content]), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert wire.search().hits


def test_every_method_of_the_protos_is_there(wire: Wire) -> None:
    """No servicer has left one out: an empty request gets an answer or a refusal, never UNIMPLEMENTED."""
    services = (
        (wire.channels[0], embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"]),
        (wire.channels[1], orchestrator_pb2.DESCRIPTOR.services_by_name["OrchestratorService"]),
    )
    for channel, service in services:
        for method in service.methods:
            call = channel.stream_stream(
                f"/{service.full_name}/{method.name}", request_serializer=bytes, response_deserializer=bytes
            )(iter([b""]), timeout=30)
            list(_until_error(call))
            assert call.code() is not grpc.StatusCode.UNIMPLEMENTED, method.full_name
            assert call.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), method.full_name


def _until_error(call: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from call
    except grpc.RpcError as error:
        assert error.code() is not None
