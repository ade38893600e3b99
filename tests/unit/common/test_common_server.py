"""The server around a service: ids, errors, deadlines and streams over real gRPC."""

import asyncio
import json

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from structlog.testing import capture_logs
from tiny_embedder import NAME, SECRET, TinyEmbedder, running, service

from services.common.server import ServiceHost
from services.common.settings import load_settings
from warmer.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
    from_rpc_error,
)
from warmer.v1 import embedder_pb2 as pb
from warmer.v1.embedder_pb2_grpc import EmbedderServiceStub

# On the wire gRPC rounds time-outs of 1 to 10 s up to 10 ms; the caller's own clock still ends the call exactly.
ROUNDING_S = 0.02

Status = health_pb2.HealthCheckResponse


def say(text):
    return pb.EmbedTextRequest(texts=[text])


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@pytest.fixture
async def tiny():
    async with running() as (servicer, target), grpc.aio.insecure_channel(target) as channel:
        servicer.target = target
        servicer.stub = EmbedderServiceStub(channel)
        yield servicer


async def test_request_id_comes_back_and_is_logged_without_the_text(tiny):
    with capture_logs() as logs:
        call = tiny.stub.EmbedText(say("look:my words"), metadata=(("x-request-id", "abc-1"),))
        assert json.loads((await call).model)["request_id"] == "abc-1"
        await call.code()
        await asyncio.sleep(0.05)
    assert dict(await call.initial_metadata())["x-request-id"] == "abc-1"
    (line,) = [log for log in logs if log["event"] == "call"]
    assert (line["method"], line["code"]) == (f"/{NAME}/EmbedText", "OK")
    assert line["duration_ms"] >= 0
    assert "words" not in str(logs)


async def test_a_missing_or_unprintable_request_id_is_replaced(tiny):
    first = json.loads((await tiny.stub.EmbedText(say("look"))).model)["request_id"]
    bad = tiny.stub.EmbedText(say("look"), metadata=(("x-request-id", "x" * 300),))
    second = json.loads((await bad).model)["request_id"]
    assert len(first) == len(second) == 32
    assert first != second


async def test_a_warmer_error_arrives_whole(tiny):
    error = await error_of(tiny.stub.EmbedText(say("fail")))
    assert isinstance(error, InvalidArgument)
    assert (error.message, error.reason, error.hint) == ("the text is wrong", "BAD_TEXT", "write another")
    assert (error.field, error.resource, error.retry_after_s) == ("texts[0]", "collections/a", 1.5)


async def test_a_huge_message_still_arrives(tiny):
    error = await error_of(tiny.stub.EmbedText(say("fail:100000")))
    assert (type(error), error.reason) == (InvalidArgument, "BAD_TEXT")
    assert error.message.startswith("xxx")
    assert error.message.endswith("…")


async def test_an_unexpected_error_leaks_nothing_but_is_logged(tiny):
    with capture_logs() as logs:
        call = tiny.stub.EmbedText(say("boom"), metadata=(("x-request-id", "find-me"),))
        error = await error_of(call)
    assert (type(error), error.reason) == (Internal, "INTERNAL")
    assert "find-me" in error.hint
    assert SECRET not in repr(await call.trailing_metadata()) + str(error)
    assert any(SECRET in str(log.get("exc_info")) for log in logs)


async def test_an_abort_by_hand_stays(tiny):
    error = await error_of(tiny.stub.EmbedText(say("abort")))
    assert (error.code, error.message) == (grpc.StatusCode.OUT_OF_RANGE, "by hand")


async def test_unknown_methods_stay_unimplemented(tiny):
    async with grpc.aio.insecure_channel(tiny.target) as channel:
        error = await error_of(channel.unary_unary(f"/{NAME}/Nothing")(b""))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED


async def test_streams(tiny):
    chunks = [r.chunk async for r in tiny.stub.GetImageContent(pb.GetImageContentRequest(name="a", max_edge=3))]
    assert chunks == [b"\0", b"\1", b"\2"]
    items = [pb.AddImagesRequest(item=pb.AddImagesItem(offset=n, image_id="i")) for n in (5, 6)]
    answers = tiny.stub.AddImages(iter(items))
    assert [a.committed_offset async for a in answers] == [5, 6]
    assert "x-request-id" in dict(await answers.initial_metadata())


async def test_a_stream_that_fails_in_the_middle(tiny):
    chunks = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for response in tiny.stub.GetImageContent(pb.GetImageContentRequest(name="missing", max_edge=2)):
            chunks.append(response.chunk)
    error = from_rpc_error(caught.value)
    assert len(chunks) == 2
    assert (type(error), error.resource) == (NotFound, "collections/a/images/b")


async def test_a_bidirectional_stream_that_fails(tiny):
    call = tiny.stub.AddImages(iter([pb.AddImagesRequest(item=pb.AddImagesItem(offset=1))]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
        await call.code()
        await call.read()
    assert from_rpc_error(caught.value).reason == "BAD_ID"


async def test_cancelling_a_stream_runs_its_cleanup(tiny):
    call = tiny.stub.GetImageContent(pb.GetImageContentRequest(name="slow", max_edge=200))
    await call.read()
    call.cancel()
    await asyncio.wait_for(tiny.cleaned_up.wait(), 5)


async def test_handlers_of_the_other_shapes():
    """stream-unary, and a coroutine that writes to the context: no method of ours has these shapes."""
    host = ServiceHost(load_settings())

    async def count(requests, context):
        total = sum([len(r) async for r in requests])
        if total == 0:
            raise InvalidArgument("nothing came", reason="EMPTY")
        return str(total).encode()

    async def write(request, context):
        await context.write(request)
        await context.write(request)

    handlers = {
        "Count": grpc.stream_unary_rpc_method_handler(count),
        "Write": grpc.unary_stream_rpc_method_handler(write),
    }
    host.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Shapes", handlers),))
    (port,) = await host.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        counter = channel.stream_unary("/test.Shapes/Count")
        assert await counter(iter([b"ab", b"c"])) == b"3"
        assert (await error_of(counter(iter([])))).reason == "EMPTY"
        assert [r async for r in channel.unary_stream("/test.Shapes/Write")(b"x")] == [b"x", b"x"]
    await host.stop(0)


async def test_the_deadline_is_known(tiny):
    seen = json.loads((await tiny.stub.EmbedText(say("look"), timeout=5)).model)
    assert 4 < seen["left"] <= 5 + ROUNDING_S
    seen = json.loads((await tiny.stub.EmbedText(say("look"))).model)
    assert seen["left"] is None


async def test_request_id_and_deadline_go_downstream():
    async with (
        running(load_settings(deadline_margin_s=0.5)) as (tiny, target),
        running() as (other, other_target),
        grpc.aio.insecure_channel(target) as channel,
    ):
        text = f"forward:{other_target}|look"
        await EmbedderServiceStub(channel).EmbedText(say(text), timeout=3, metadata=(("x-request-id", "one-id"),))
    seen = json.loads(tiny.seen[-1])
    assert other.seen == ["look"]
    assert seen["request_id"] == "one-id"
    assert 1.5 < seen["left"] <= 3 - 0.5 + ROUNDING_S


async def test_an_own_timeout_below_the_deadline_wins():
    settings = load_settings(call_timeout_s=0.4)
    async with (
        running(settings) as (tiny, target),
        running() as (_, other),
        grpc.aio.insecure_channel(target) as channel,
    ):
        stub = EmbedderServiceStub(channel)
        await stub.EmbedText(say(f"forward:{other}|look"), timeout=20)
        assert json.loads(tiny.seen[-1])["left"] <= 0.4 + ROUNDING_S
        error = await error_of(stub.EmbedText(say(f"forward:{other}|sleep:5"), timeout=20))
    assert (type(error), error.reason) == (DeadlineExceeded, "DEADLINE_EXCEEDED")


async def test_a_call_without_time_left_is_not_sent(tiny):
    settings = load_settings(deadline_margin_s=5)
    async with running(settings) as (_, target), running() as (other, other_target):
        async with grpc.aio.insecure_channel(target) as channel:
            error = await error_of(
                EmbedderServiceStub(channel).EmbedText(say(f"forward:{other_target}|look"), timeout=3)
            )
        assert isinstance(error, DeadlineExceeded)
        assert "too little of the deadline" in error.message
        assert other.seen == []


async def test_downstream_errors_pass_on(tiny):
    async with running() as (_, other):
        error = await error_of(tiny.stub.EmbedText(say(f"forward:{other}|fail")))
        assert (type(error), error.reason, error.field) == (InvalidArgument, "BAD_TEXT", "texts[0]")
        error = await error_of(tiny.stub.EmbedText(say(f"forward:{other}|boom")))
        assert (type(error), error.reason) == (Internal, "INTERNAL")


async def test_an_unreachable_downstream_names_no_address(tiny):
    error = await error_of(tiny.stub.EmbedText(say("forward:127.0.0.1:1|look"), timeout=10))
    assert (type(error), error.reason) == (Unavailable, "DOWNSTREAM_UNAVAILABLE")
    assert "127.0.0.1" not in str(error)


async def test_a_timeout_at_the_deadline_is_no_internal_error(tiny):
    with capture_logs() as logs:
        await error_of(tiny.stub.EmbedText(say("time"), timeout=0.3))
        await asyncio.sleep(0.2)
    assert [log for log in logs if log["log_level"] == "error"] == []


async def test_a_message_above_the_limit_is_refused():
    settings = load_settings(max_message_bytes=1_048_576)
    async with running(settings) as (_, target), grpc.aio.insecure_channel(target) as channel:
        error = await error_of(EmbedderServiceStub(channel).EmbedText(say("look:" + "x" * 1_100_000)))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_follows_the_warming_and_the_end():
    settings = load_settings()
    host = ServiceHost(settings)
    warmed = asyncio.Event()
    host.add(service(TinyEmbedder(settings), warmed.wait))
    (port,) = await host.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == Status.NOT_SERVING
        warming = asyncio.create_task(host.warm())
        error = await error_of(EmbedderServiceStub(channel).EmbedText(say("look")))
        assert (type(error), error.reason) == (Unavailable, "WARMING_UP")
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == Status.NOT_SERVING
        warmed.set()
        await warming
        assert (await watch.read()).status == Status.SERVING
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == Status.SERVING
        await EmbedderServiceStub(channel).EmbedText(say("look"))
        begin = asyncio.get_running_loop().time()
        await host.stop(30)
        assert asyncio.get_running_loop().time() - begin < 5, "an open watch must not hold up the drain"
        assert (await watch.read()).status == Status.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF


async def test_reflection_lists_the_service(tiny):
    def names():
        with grpc.insecure_channel(tiny.target) as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert {NAME, "grpc.health.v1.Health"} <= await asyncio.to_thread(names)


async def test_two_servers_on_one_address_fail_clearly(tiny, tmp_path):
    path = f"unix:{tmp_path}/s.sock"
    first = ServiceHost(load_settings())
    await first.start(path)
    assert (tmp_path / "s.sock").stat().st_mode & 0o077 == 0
    for address in (tiny.target, path):
        second = ServiceHost(load_settings())
        with pytest.raises(FailedPrecondition) as caught:
            await second.start(address)
        assert caught.value.reason == "ADDRESS_IN_USE"
        assert address in str(caught.value)
    await first.stop(0)


async def test_bad_socket_paths(tmp_path):
    for path, words in ((f"unix:/tmp/{'x' * 120}", "at most 103"), (f"unix:{tmp_path}/no/s.sock", "no folder")):
        with pytest.raises(FailedPrecondition, match=words):
            await ServiceHost(load_settings()).start(path)
