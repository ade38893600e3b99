"""The paper's rewriter over real gRPC in this process: a tiny Llama 3.1, in all precisions, and what keeps it away."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from chat_kit import load
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny import clip, llama

from services.common.server import ServiceHost
from services.common.settings import load_settings
from services.rewriter.prompts import load_prompt
from services.rewriter.service import build
from warmer.errors import FailedPrecondition, from_rpc_error
from warmer.v1.common_pb2 import GetModelRequest
from warmer.v1.rewriter_pb2 import Rewrite, RewriteRequest
from warmer.v1.rewriter_pb2_grpc import RewriterServiceStub

LESSONS = [
    (
        {"query": "a dog", "relevant_captions": ["a black dog on the beach"], "comment": "with a red ball"},
        "a black dog with a red ball on the beach",
    ),
    (
        {"query": "a man", "relevant_captions": ["a man in a blue shirt rides a bicycle"]},
        "a man in a blue shirt who rides a bicycle",
    ),
    ({"query": "a cat", "comment": "it sleeps on a chair"}, "a cat that sleeps on a chair"),
]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A tiny Llama that knows LESSONS by heart under the prompt `reference.v1`."""
    prompt = load_prompt("reference.v1")
    lessons = [
        (prompt.messages(asked["query"], asked.get("relevant_captions", ()), (), asked.get("comment", "")), answer)
        for asked, answer in LESSONS
    ]
    return llama.build(tmp_path_factory.mktemp("taught") / "Llama-taught", lessons=lessons)


@asynccontextmanager
async def rewriter(tmp_path, model, load_model=None, **changes):
    """A stub of the paper profile's rewriter with this model, and the host, which has been told to warm it."""
    own = {"profile": "paper", "rewriter_model": str(model), "threads": 1, "device": "cpu"}
    settings = load_settings(**{**own, **changes})
    host = ServiceHost(settings)
    host.add(await (build(settings, load_model) if load_model else build(settings)))
    target = f"unix:{tmp_path}/r.sock"
    await host.start(target)
    try:
        await host.warm_patiently()
        async with grpc.aio.insecure_channel(target) as channel:
            yield RewriterServiceStub(channel), channel
    finally:
        await host.stop(0)


async def collect(call):
    events = [event async for event in call]
    deltas = [event.text_delta for event in events[:-1]]
    return deltas, events[-1].rewrite


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
async def test_it_rewrites_in_every_precision(tmp_path, taught, precision):
    if precision in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")
    async with rewriter(tmp_path, taught, rewriter_precision=precision) as (stub, _):
        model = await stub.GetModel(GetModelRequest())
        assert (model.backend, model.prompt_version, model.precision) == ("transformers", "reference.v1", precision)
        assert model.device == "cpu"
        for asked, answer in LESSONS:
            deltas, rewrite = await collect(stub.Rewrite(RewriteRequest(**asked)))
            assert (rewrite.model, rewrite.prompt_version) == (model.id, "reference.v1")
            assert rewrite.tokens > 0
            if precision != "nf4":  # 4 bits are too few for a model as small as this one to remember
                assert "".join(deltas) == rewrite.text == answer
                assert len(deltas) > 3
                assert not rewrite.fell_back


async def test_calls_that_come_together_share_a_batch(tmp_path, taught):
    shapes = []

    def watched(_settings):
        model = load(taught)
        read = lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape))  # noqa: E731
        model._model.register_forward_pre_hook(read, with_kwargs=True)
        return model

    async with rewriter(tmp_path, taught, watched, rewriter_batch=3, rewriter_wait_s=1.0) as (stub, _):
        del shapes[:]
        answers = await asyncio.gather(*(collect(stub.Rewrite(RewriteRequest(**asked))) for asked, _ in LESSONS))
        assert [rewrite.text for _, rewrite in answers] == [answer for _, answer in LESSONS]
        assert ["".join(deltas) for deltas, _ in answers] == [answer for _, answer in LESSONS]
        assert {rows for rows, _ in shapes} == {3}
        assert [width > 1 for _, width in shapes].count(True) == 1  # the prompts were read once, all together


async def test_a_prompt_that_is_too_long_fails_alone(tmp_path):
    model = llama.build(tmp_path / "short", max_tokens=700)
    async with rewriter(tmp_path, model, rewriter_wait_s=0.5) as (stub, _):
        long = RewriteRequest(query="a dog", relevant_captions=[f"caption {i} of a dog, " * 20 for i in range(8)])
        short = RewriteRequest(query="a dog", comment="it is black")
        first, second, third = await asyncio.gather(
            *(collect(stub.Rewrite(request)) for request in (short, long, short)), return_exceptions=True
        )
        error = from_rpc_error(second)
        assert (type(error), error.reason) == (FailedPrecondition, "PROMPT_TOO_LONG")
        assert first[1] == third[1]
        # Random words drop the comment, which the guard sees; the plain join is used and says so.
        assert first[1].fallback_reason == Rewrite.FALLBACK_REASON_DROPPED_COMMENT
        assert first[1].text == "a dog, it is black"
        assert first[1].rejected_text


def _missing(folder):
    return folder / "nowhere"


def _truncated(folder):
    llama.build(folder)
    weights = sorted(folder.glob("*.safetensors"))[-1]
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def _without_template(folder):
    return llama.build(folder, chat_template=None)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_missing, "MODEL_NOT_FOUND"),
        (_truncated, "MODEL_DAMAGED"),
        (clip.build, "WRONG_ARCHITECTURE"),
        (_without_template, "NO_CHAT_TEMPLATE"),
    ],
)
async def test_what_cannot_be_loaded_keeps_it_away_and_every_call_says_why(tmp_path, make, reason):
    folder = tmp_path / "model"
    folder.mkdir()
    async with rewriter(tmp_path, make(folder)) as (stub, channel):
        for call in (stub.GetModel(GetModelRequest()), collect(stub.Rewrite(RewriteRequest(query="a dog")))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = from_rpc_error(caught.value)
            assert (type(error), error.reason) == (FailedPrecondition, reason)
            assert str(folder) in error.message
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service="warmer.v1.RewriterService")
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_an_unknown_prompt_is_said_before_the_model_is_read(tmp_path, taught):
    async with rewriter(tmp_path, taught, rewriter_prompt="poem.v1") as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetModel(GetModelRequest())
        error = from_rpc_error(caught.value)
        assert error.reason == "PROMPT_NOT_FOUND"
        assert "merge.v1" in error.hint


async def test_a_gguf_file_serves_too(tmp_path):
    file = llama.build_gguf(tmp_path / "tiny.gguf")
    async with rewriter(tmp_path, file, rewriter_precision="fp32") as (stub, _):
        assert (await stub.GetModel(GetModelRequest())).id.startswith("tiny.gguf@")
        _, rewrite = await collect(stub.Rewrite(RewriteRequest(query="a dog", comment="it is black")))
        assert rewrite.tokens > 0
