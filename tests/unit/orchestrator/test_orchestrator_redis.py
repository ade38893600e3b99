"""The embedded Redis: its life, and kill -9 of either side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest
from orchestrator_peers import new_session, refine

from services.orchestrator.store import embedded
from services.orchestrator.store.database import Database
from services.orchestrator.store.embedded import EmbeddedServer
from warmer.channel import make_aio_channel
from warmer.errors import FailedPrecondition, Unavailable
from warmer.v1 import orchestrator_pb2 as pb
from warmer.v1.orchestrator_pb2_grpc import OrchestratorServiceStub


async def pid_of(database: Database) -> int:
    info = await database.command("INFO", "server")
    return int(info["process_id"]) if isinstance(info, dict) else int(info.split(b"process_id:")[1].split()[0])


def runs(pid: int) -> bool:
    """Whether the process lives; one that has ended may stay a zombie, for its parent here was killed or never asks."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def own_server(short_dir):
    """An embedded server that a test may kill."""
    server = EmbeddedServer(short_dir / "redis")
    yield server
    server.leave()


async def test_settings_of_the_embedded_server(database):
    for name, value in (("appendonly", "yes"), ("appendfsync", "always"), ("port", "0")):
        answer = await database.command("CONFIG", "GET", name)
        assert answer in ({name: value}, {name.encode(): value.encode()}, [name.encode(), value.encode()])


async def test_killing_redis_between_two_rounds_loses_nothing(own_server, stack):
    await own_server.start()
    database = Database.from_socket(own_server.socket)
    stub, _ = await stack.replica(database)
    session, first = await new_session(stub)
    second = (await refine(stub, session.name, relevant=[first.hits[0].image_id], request_id="r1"))[-1].round
    old = await pid_of(database)
    os.kill(old, signal.SIGKILL)
    # No wait: the next request meets a dead server, and the caller must not notice.
    third = (await refine(stub, session.name, comment="snow", etag=second.etag))[-1].round
    assert await pid_of(database) != old
    rounds = await stub.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert list(rounds.rounds) == [first, second, third]
    replay = await refine(stub, session.name, relevant=[first.hits[0].image_id], request_id="r1")
    assert replay[-1].round == second
    await database.close()
    await own_server.stop()


async def test_killing_redis_in_mid_round_is_not_seen(own_server, stack):
    await own_server.start()
    database = Database.from_socket(own_server.socket)
    stub, _ = await stack.replica(database)
    session, first = await new_session(stub)
    stack.rewriter.trouble.delays["Rewrite"] = 0.3
    running = asyncio.create_task(refine(stub, session.name, relevant=[first.hits[0].image_id]))
    await asyncio.sleep(0.15)
    os.kill(await pid_of(database), signal.SIGKILL)
    events = await running
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].round.index == 1
    assert not events[-1].round.degraded_stages
    await database.close()
    await own_server.stop()


async def test_two_users_share_one_server_and_the_last_one_stops_it(short_dir):
    first, second = EmbeddedServer(short_dir / "redis"), EmbeddedServer(short_dir / "redis")
    await asyncio.gather(first.start(), second.start())
    database = Database.from_socket(first.socket, reconnect_s=0.2)
    pid = await pid_of(database)
    await first.stop()
    assert await pid_of(database) == pid
    await second.stop()
    assert not runs(pid)
    with pytest.raises(Unavailable) as caught:
        await database.ping()
    assert caught.value.reason == "REDIS_UNAVAILABLE"
    assert caught.value.hint
    await database.close()


async def test_a_frozen_server_is_never_joined_by_a_second_one(own_server, short_dir, monkeypatch):
    own_server.enter()
    database = Database.from_socket(own_server.socket)
    pid = await pid_of(database)
    await database.close()
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.5)
    other = EmbeddedServer(short_dir / "redis")
    try:
        with pytest.raises(Unavailable):
            await asyncio.to_thread(other.enter)
        servers = [p for p in psutil.process_iter(["cmdline"]) if str(short_dir) in " ".join(p.info["cmdline"] or [])]
        assert len(servers) == 1
    finally:
        os.kill(pid, signal.SIGCONT)
    other.leave()


def test_the_socket_path_is_checked(tmp_path):
    with pytest.raises(FailedPrecondition) as caught:
        EmbeddedServer(tmp_path / ("x" * 100))
    assert caught.value.reason == "SOCKET_PATH_TOO_LONG"


async def test_a_folder_with_spaces_and_quotes(short_dir):
    server = EmbeddedServer(short_dir / 'a "b" c')
    await server.start()
    database = Database.from_socket(server.socket)
    await database.command("SET", "k", "v")
    await server.stop()
    await server.start()
    assert await database.command("GET", "k") == b"v"
    await database.close()
    await server.stop()


class Process:
    """An orchestrator as its own process, with the embedded Redis in `folder`."""

    def __init__(self, folder: Path, peers: str) -> None:
        self.socket = folder / "o.sock"
        self.environment = {
            **os.environ,
            "WARMER_DATA_DIR": str(folder),
            "WARMER_HOST": "127.0.0.1",
            "WARMER_ORCHESTRATOR_PORT": str(free_port()),
            **{f"WARMER_{name}_TARGET": peers for name in ("EMBEDDER", "CAPTIONER", "REWRITER")},
        }
        self.target = f"127.0.0.1:{self.environment['WARMER_ORCHESTRATOR_PORT']}"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> OrchestratorServiceStub:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.orchestrator"], env=self.environment, start_new_session=True
        )
        stub = OrchestratorServiceStub(make_aio_channel(self.target))
        for _ in range(300):
            with contextlib.suppress(grpc.RpcError):
                await stub.ListSessions(pb.ListSessionsRequest(), timeout=1)
                return stub
            await asyncio.sleep(0.05)
        raise AssertionError("the orchestrator did not start")

    def end(self, number: int) -> int:
        assert self.process is not None
        os.killpg(self.process.pid, number)  # as a terminal or a supervisor does
        return self.process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_killing_the_orchestrator_between_two_rounds_loses_nothing(short_dir, stack):
    process = Process(short_dir, stack.peers_target)
    stub = await process.start()
    session, first = await new_session(stub, strategy=pb.STRATEGY_REWRITE)
    second = (await refine(stub, session.name, comment="snow", request_id="r1"))[-1].round
    database = Database.from_socket(short_dir / "redis" / "valkey.sock")
    pid = await pid_of(database)
    process.end(signal.SIGKILL)
    assert runs(pid)  # Redis does not go with it
    stub = await process.start()
    assert await pid_of(database) == pid  # the new one attaches
    third = (await refine(stub, session.name, comment="sand", etag=second.etag))[-1].round
    rounds = await stub.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert list(rounds.rounds) == [first, second, third]
    assert (await refine(stub, session.name, comment="snow", request_id="r1"))[-1].round == second
    assert process.end(signal.SIGTERM) == 0
    assert not runs(pid)  # the last one stops it
    stub = await process.start()
    assert len((await stub.ListRounds(pb.ListRoundsRequest(session=session.name))).rounds) == 3
    await database.close()
    process.end(signal.SIGTERM)
