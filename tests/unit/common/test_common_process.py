"""A whole service process: it starts unready, warms, drains on SIGTERM, and ends with codes that mean something."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from warmer.errors import from_rpc_error
from warmer.v1 import embedder_pb2 as pb
from warmer.v1.embedder_pb2_grpc import EmbedderServiceStub

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("tiny_service.py")


class Process:
    def __init__(self, folder: Path, port: int = 0, **environment: str) -> None:
        self.warm = folder / f"warm-{time.monotonic_ns()}"
        self.lines: list[dict] = []
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "WARMER_EMBEDDER_PORT": str(port),
            "WARMER_LOG_FORMAT": "json",
            **environment,
        }
        self.popen = subprocess.Popen(
            [sys.executable, SCRIPT, self.warm], env=variables, cwd=folder, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.popen.stderr:
            self.lines.append(json.loads(line) if line.startswith("{") else {"event": line})

    def wait_for(self, event: str) -> dict:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for line in self.lines:
                if line["event"].startswith(event):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in {self.lines}")

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.wait_for('listening')['port']}"

    def end(self) -> int:
        return self.popen.wait(30)


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(*arguments, **environment) -> Process:
        started.append(Process(tmp_path, *arguments, **environment))
        return started[-1]

    yield begin
    for process in started:
        process.popen.kill()
        process.popen.wait()


def status(channel) -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status


def test_sigterm_drains(start):
    process = start()
    with grpc.insecure_channel(process.target) as channel:
        assert status(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        process.warm.write_text("")
        process.wait_for("serving")
        assert status(channel) == health_pb2.HealthCheckResponse.SERVING
        call = EmbedderServiceStub(channel).EmbedText.future(pb.EmbedTextRequest(texts=["sleep:1.5"]))
        time.sleep(0.5)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        with grpc.insecure_channel(process.target) as late, pytest.raises(grpc.RpcError) as refused:
            EmbedderServiceStub(late).EmbedText(pb.EmbedTextRequest(texts=["look"]))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "left" in call.result(timeout=10).model
    assert process.end() == 0
    assert process.lines[-1]["event"] == "stopped"
    assert all(line["service"] == "embedder" for line in process.lines)


def test_a_drain_ends_in_time(start):
    process = start(WARMER_DRAIN_S="0.5")
    process.warm.write_text("")
    process.wait_for("serving")
    with grpc.insecure_channel(process.target) as channel:
        call = EmbedderServiceStub(channel).EmbedText.future(pb.EmbedTextRequest(texts=["sleep:60"]))
        time.sleep(0.5)
        begin = time.monotonic()
        process.popen.send_signal(signal.SIGINT)
        assert process.end() == 0
        assert 0.4 < time.monotonic() - begin < 4
        assert call.exception(timeout=5).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_a_second_signal_ends_the_drain(start):
    process = start(WARMER_DRAIN_S="60")
    process.warm.write_text("")
    process.wait_for("serving")
    with grpc.insecure_channel(process.target) as channel:
        call = EmbedderServiceStub(channel).EmbedText.future(pb.EmbedTextRequest(texts=["sleep:60"]))
        time.sleep(0.5)
        begin = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("draining")
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == 0
        assert time.monotonic() - begin < 10
        assert call.exception(timeout=5) is not None


def test_sigterm_while_warming(start):
    process = start()
    assert process.target
    process.popen.send_signal(signal.SIGTERM)
    assert process.end() == 0


def test_a_model_that_is_not_there(start):
    process = start()
    with grpc.insecure_channel(process.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            EmbedderServiceStub(channel).EmbedText(pb.EmbedTextRequest(texts=["look"]))
        assert from_rpc_error(caught.value).reason == "WARMING_UP"
    process.warm.write_text("broken")
    line = process.wait_for("not serving: the model file is gone. install it")
    assert line["reason"] == "MODEL_NOT_INSTALLED"
    with grpc.insecure_channel(process.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            EmbedderServiceStub(channel).EmbedText(pb.EmbedTextRequest(texts=["look"]))
        assert from_rpc_error(caught.value).reason == "MODEL_NOT_INSTALLED"
        check = health_pb2.HealthCheckRequest(service="warmer.v1.EmbedderService")
        assert health_pb2_grpc.HealthStub(channel).Check(check).status == health_pb2.HealthCheckResponse.NOT_SERVING
    process.popen.send_signal(signal.SIGTERM)
    assert process.end() == 0
    assert "exception" not in str(process.lines)


def test_what_may_pass_is_tried_again(start):
    process = start()
    process.warm.write_text("away")
    assert process.wait_for("not serving: the model server cannot be reached")["retry"] is True
    process.warm.write_text("")
    process.wait_for("serving")
    with grpc.insecure_channel(process.target) as channel:
        EmbedderServiceStub(channel).EmbedText(pb.EmbedTextRequest(texts=["look"]))
    process.popen.send_signal(signal.SIGTERM)
    assert process.end() == 0


def test_a_port_that_is_taken(start):
    first = start()
    port = first.wait_for("listening")["port"]
    second = start(port)
    assert second.end() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in second.wait_for("embedder cannot start")["event"]
    assert len(second.lines) == 1, "one clear message and nothing else"
    assert psutil.pid_exists(first.popen.pid)


def test_a_socket_left_behind_by_a_crash_is_taken_over(tmp_path):
    code = (
        "import asyncio, sys; from services.common.server import ServiceHost\n"
        "from services.common.settings import load_settings\n"
        "async def main():\n"
        "    host = ServiceHost(load_settings())\n"
        "    await host.start(sys.argv[1])\n"
        "    print('up', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    address = f"unix:{tmp_path}/s.sock"
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, address], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert lines[1] == "up\n", lines
        finally:
            process.kill()
            process.wait()
        assert (tmp_path / "s.sock").exists()
