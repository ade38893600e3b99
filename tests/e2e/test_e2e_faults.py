"""Real processes that die between rounds, and what is left then."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from running import Running

from warmer import Client
from warmer.cli.stack import SERVICES
from warmer.errors import Unavailable


@pytest.fixture(scope="module")
def own(gallery: Path) -> Iterator[Running]:
    """Four processes of this module's own, since its tests kill them."""
    running = Running("processes").start()
    try:
        with running.client() as client:
            client.collections.create("gallery")
            client.collections.add_folder("gallery", gallery)
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(own: Running) -> Iterator[Client]:
    with own.client() as client:
        yield client


def test_orchestrator_killed_between_rounds(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="preference", page_size=4)
    first = session.search("a machine")
    own.kill("orchestrator")
    own.restart("orchestrator")
    assert list(client.sessions.get(session.id).rounds()) == [first]
    second = session.refine(relevant=[first.hits[0].image_id])
    assert [round.index for round in session.rounds()] == [0, 1]
    assert not {h.image_id for h in first.hits} & {h.image_id for h in second.hits}


def test_embedded_redis_killed_between_rounds(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="preference", page_size=4)
    first = session.search("a machine")
    servers = own.redis()
    assert servers
    for server in servers:
        server.kill()
        server.wait(10)
    second = session.refine(irrelevant=[first.hits[0].image_id])
    assert list(session.rounds()) == [first, second]


def test_embedder_killed_loses_no_image(own: Running, client: Client) -> None:
    before = client.search("gallery", "a rocket").hits
    own.kill("embedder")
    with pytest.raises(Unavailable):
        client.search("gallery", "a rocket", timeout_s=3)
    own.restart("embedder")
    assert client.search("gallery", "a rocket").hits == before


def test_a_round_without_the_captioner_says_so(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    first = session.search("a machine")
    own.kill("captioner")
    try:
        second = session.refine(relevant=[first.hits[0].image_id], comment="a red one")
    finally:
        own.restart("captioner")
    assert "caption" in second.degraded_stages
    assert "red" in second.query
    assert second.hits
    third = session.refine(relevant=[second.hits[0].image_id])
    assert third.degraded_stages == ()
    assert third.captions


def test_one_request_id_crosses_all_services(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    first = session.search("a machine")
    session.refine(relevant=[first.hits[2].image_id], comment="with lights")
    deadline = time.monotonic() + 10
    ids: dict[str, set[str]] = {}
    while time.monotonic() < deadline:
        ids = {name: request_ids(own.log(name)) for name in SERVICES}
        if set.intersection(*ids.values()):
            return
        time.sleep(0.2)
    raise AssertionError(f"no request id is in the logs of all services: { {n: len(i) for n, i in ids.items()} }")


def request_ids(log: str) -> set[str]:
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return {line["request_id"] for line in lines if line.get("request_id")}


def test_logs_hold_no_query(own: Running, client: Client) -> None:
    client.sessions.create("gallery").search("zebracorn on a mountain")
    time.sleep(0.5)
    assert all("zebracorn" not in own.log(name) for name in SERVICES)


def test_two_clients_at_once(own: Running) -> None:
    failures: list[BaseException] = []

    def hunt() -> None:
        try:
            with own.client() as client:
                session = client.sessions.create("gallery", strategy="preference", page_size=3)
                hits = session.search("a machine").hits
                for _ in range(4):
                    hits = session.refine(relevant=[hits[0].image_id]).hits
                assert [round.index for round in session.rounds()] == [0, 1, 2, 3, 4]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hunt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_reflection_lists_the_service(own: Running) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    for name in SERVICES:
        with grpc.insecure_channel(own.targets[name]) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            (answer,) = stub.ServerReflectionInfo(iter([ask]), timeout=10)
            assert f"warmer.v1.{name.capitalize()}Service" in [s.name for s in answer.list_services_response.service]


def test_sigterm_drains_and_exits_cleanly(own: Running) -> None:
    for name in SERVICES:
        assert own.kill(name, signal.SIGTERM) == 0, own.log(name)[-2000:]
        own.restart(name)
