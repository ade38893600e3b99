"""A rewriter over real gRPC in this process, and models that write as slowly as a test wants."""

import asyncio
import threading
from contextlib import asynccontextmanager

import grpc
import pytest

from services.common.server import ServiceHost
from services.common.settings import load_settings
from services.rewriter.models.base import Generation
from services.rewriter.service import build
from warmer.errors import from_rpc_error
from warmer.v1.rewriter_pb2_grpc import RewriterServiceStub


class Slow:
    """A language model that writes one scripted word at a time to a whole batch, each when the test lets it."""

    id = "slow"
    backend = "test"
    precision = "fp64"
    device = "abacus"
    max_tokens = 100

    def __init__(self, answer=" with a ball"):
        self.answer = answer
        self.go = threading.Semaphore(0)
        self.begun = threading.Event()
        self.stopped = threading.Event()
        self.closed = threading.Event()
        self.batches = []  # of each batch, what every chat ends with

    def warm(self, chats):
        assert len(chats) == 2

    def close(self):
        self.closed.set()

    def generate(self, requests, *, max_new_tokens):
        self.batches.append([request.chat[-1]["content"] for request in requests])
        self.begun.set()
        texts = dict.fromkeys(range(len(requests)), "")
        running = set(texts)
        for word in self.answer.split(" ")[1:]:
            while not self.go.acquire(timeout=0.01):
                for index in [i for i in running if requests[i].should_stop()]:
                    running.remove(index)
                    self.stopped.set()
                if not running:
                    break
            for index in running:
                texts[index] += f" {word}"
                requests[index].on_text(f" {word}")
        return [Generation(text, len(text.split()), index in running) for index, text in texts.items()]


class Broken(Slow):
    def generate(self, requests, **_):
        if any("boom" in request.chat[-1]["content"] for request in requests):
            raise RuntimeError("secret path")
        return [Generation("", 0, True) for _ in requests]


@asynccontextmanager
async def rewriter(tmp_path, load=None, **changes):
    """A stub for a running rewriter. `load` gives a model object; None loads what the settings say."""
    settings = load_settings(**{"rewriter_mode": "model", **changes})
    host = ServiceHost(settings)
    host.add(await (build(settings, load) if load else build(settings)))
    target = f"unix:{tmp_path}/r.sock"
    await host.start(target)
    await host.warm()
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            yield RewriterServiceStub(channel)
    finally:
        await host.stop(0)


@asynccontextmanager
async def slow_rewriter(tmp_path, model, **changes):
    async with rewriter(tmp_path, lambda _settings: model, **changes) as stub:
        yield stub


async def collect(call):
    events = [event async for event in call]
    deltas = [event.text_delta for event in events if event.WhichOneof("event") == "text_delta"]
    assert [event.WhichOneof("event") for event in events] == ["text_delta"] * len(deltas) + ["rewrite"]
    return deltas, events[-1].rewrite


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return from_rpc_error(caught.value)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
