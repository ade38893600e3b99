"""Redis elsewhere: URLs, a cluster, and what a Redis refuses."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time

import grpc
import pytest
from orchestrator_peers import new_session, refine

from services.orchestrator.store import embedded
from services.orchestrator.store.database import Database
from services.orchestrator.store.embedded import EmbeddedServer
from warmer.errors import InvalidArgument, ResourceExhausted, Unavailable
from warmer.v1 import orchestrator_pb2 as pb


@pytest.fixture
def own_server(short_dir):
    """An embedded server that a test may kill."""
    server = EmbeddedServer(short_dir / "redis")
    yield server
    server.leave()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def tcp_server(short_dir):
    """A Valkey that listens on TCP: as a cluster of one node that holds all slots."""
    port = free_port()
    # Its bus port would be 10,000 above, which may be past the last port there is.
    bus = ["--cluster-port", str(free_port())]
    arguments = [*bus, "--port", str(port), "--dir", str(short_dir), "--cluster-enabled", "yes", "--save", ""]
    process = subprocess.Popen([str(embedded._binary()), *arguments], stdout=subprocess.DEVNULL, cwd=short_dir)
    yield port
    process.terminate()
    process.wait(10)


async def test_a_cluster_serves_all_of_it(tcp_server, stack):
    plain = Database.from_url(f"redis://127.0.0.1:{tcp_server}")
    await plain.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    give_up = time.monotonic() + 10
    while b"cluster_state:ok" not in (state := await plain.command("CLUSTER", "INFO")) and (
        not isinstance(state, dict) or state.get("cluster_state") != "ok"
    ):
        assert time.monotonic() < give_up
        await asyncio.sleep(0.1)
    await plain.close()
    database = Database.from_url(f"redis+cluster://127.0.0.1:{tcp_server}")
    stub, _ = await stack.replica(database)
    session, first = await new_session(stub)
    request = {"relevant": [first.hits[0].image_id, first.hits[1].image_id], "request_id": "r1"}
    events = await refine(stub, session.name, **request)
    assert (await refine(stub, session.name, **request))[-1] == events[-1]
    other, _ = await stack.replica(database)
    assert (await refine(other, session.name, **request))[-1] == events[-1]
    assert (await refine(stub, session.name, relevant=[first.hits[1].image_id]))[-1].round.captions
    assert stack.captioner.trouble.calls.count("Caption") == 1
    sessions = await stub.ListSessions(pb.ListSessionsRequest())
    assert [s.name for s in sessions.sessions] == [session.name]
    await stub.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    assert not (await stub.ListSessions(pb.ListSessionsRequest())).sessions
    await database.close()


async def test_redis_without_memory_is_a_clear_error_and_stored_rounds_stay(own_server, stack):
    await own_server.start()
    database = Database.from_socket(own_server.socket)
    stub, _ = await stack.replica(database)
    session, first = await new_session(stub)
    await database.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(grpc.RpcError) as caught:
        await refine(stub, session.name, comment="snow")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ResourceExhausted) as direct:
        await database.command("SET", "k", "v")
    assert direct.value.reason == "REDIS_OUT_OF_MEMORY"
    rounds = await stub.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert list(rounds.rounds) == [first]
    await database.command("CONFIG", "SET", "maxmemory", 0)
    assert (await refine(stub, session.name, comment="snow"))[-1].round.index == 1
    await database.close()
    await own_server.stop()


async def test_a_read_only_replica_is_a_clear_error(own_server):
    await own_server.start()
    database = Database.from_socket(own_server.socket)
    await database.command("REPLICAOF", "127.0.0.1", free_port())
    with pytest.raises(Unavailable) as caught:
        await database.command("SET", "k", "v")
    assert caught.value.reason == "REDIS_READ_ONLY"
    await database.command("REPLICAOF", "NO", "ONE")
    await database.close()
    await own_server.stop()


async def test_a_wrong_password_is_told_at_once_and_not_shown(own_server):
    await own_server.start()
    admin = Database.from_socket(own_server.socket)
    await admin.command("CONFIG", "SET", "requirepass", "right")
    wrong = Database.from_url(f"unix://:s3cret@{own_server.socket}")
    begin = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await wrong.ping()
    assert time.monotonic() - begin < 2
    assert "s3cret" not in str(caught.value)
    right = Database.from_url(f"unix://:right@{own_server.socket}")
    await right.command("CONFIG", "SET", "requirepass", "")
    for database in (admin, wrong, right):
        await database.close()
    await own_server.stop()


@pytest.mark.parametrize("url", ["http://x", "localhost:6379", "", "redis://host:port:x/0", "redis+cluster:/x"])
def test_bad_urls(url):
    with pytest.raises(InvalidArgument) as caught:
        Database.from_url(url)
    assert caught.value.reason == "BAD_REDIS_URL"


async def test_an_unreachable_redis_is_an_unavailable_service(stack):
    database = Database.from_url(f"redis://127.0.0.1:{free_port()}", reconnect_s=0.3)
    stub, _ = await stack.replica(database)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.GetSession(pb.GetSessionRequest(name="sessions/x"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await database.close()
