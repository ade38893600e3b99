"""Real processes that die between rounds, and what is left then."""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from collections.abc import Callable

import grpc
import pytest
from running import Running

from warmer import Client
from warmer.cli.stack import SERVICES
from warmer.errors import InvalidArgument, Unavailable
from warmer.types import EarlyHits, RoundReady
from warmer.v1 import orchestrator_pb2, orchestrator_pb2_grpc


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
    assert second.captions == ()
    assert "red" in second.query
    assert second.hits
    third = session.refine(relevant=[second.hits[0].image_id])
    assert third.degraded_stages == ()
    assert third.captions


def test_a_round_without_the_rewriter_joins_and_says_so(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    first = session.search("a machine")
    own.kill("rewriter")
    try:
        second = session.refine(relevant=[first.hits[0].image_id], comment="a red one")
    finally:
        own.restart("rewriter")
    assert second.degraded_stages == ("rewrite",)
    (caption,) = second.captions
    assert second.query == f"a machine, {caption.text}, a red one"
    assert second.rewrite is not None
    assert (second.rewrite.fell_back, second.rewrite.fallback_reason) == (True, "unavailable")
    assert len(second.hits) == 4
    # A channel that lost its server tries again after at most 5 s.
    assert eventually(lambda: session.refine(comment="outdoors").degraded_stages == ())


def test_a_hanging_captioner_costs_its_share_of_the_time(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    marked = session.search("a quiet place").hits[0].image_id
    captioner = own.process("captioner")
    captioner.send_signal(signal.SIGSTOP)
    try:
        began, early = time.monotonic(), float("inf")
        for event in session.refine_stream(relevant=[marked], irrelevant=[], comment="green", timeout_s=8):
            if isinstance(event, EarlyHits):
                early = time.monotonic() - began
        took = time.monotonic() - began
    finally:
        captioner.send_signal(signal.SIGCONT)
    assert isinstance(event, RoundReady)
    assert event.round.degraded_stages == ("caption",)
    assert "green" in event.round.query
    assert early < 2
    assert 2 < took < 8


def test_one_request_id_crosses_all_services(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    marked = session.search("a face").hits[3].image_id
    mine = f"mine-{uuid.uuid4().hex}"
    feedback = orchestrator_pb2.Feedback(relevant_image_ids=[marked], comment="with lights")
    request = orchestrator_pb2.RefineSessionRequest(session=f"sessions/{session.id}", feedback=feedback)
    with grpc.insecure_channel(own.targets["orchestrator"]) as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        *_, last = stub.RefineSession(request, metadata=[("x-request-id", mine)], timeout=60)
    assert last.round.degraded_stages == []
    assert eventually(lambda: {name for name in SERVICES if mine in request_ids(own.log(name))} == set(SERVICES))


def request_ids(log: str) -> set[str]:
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return {line["request_id"] for line in lines if line.get("request_id")}


def eventually(true: Callable[[], bool], within_s: float = 10) -> bool:
    """Whether it becomes true in time: a call's line is logged after its answer."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_logs_hold_no_query(own: Running, client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    first = session.search("zebracorn on a mountain")
    session.refine(relevant=[first.hits[0].image_id], comment="a turquoise zebracorn")
    with pytest.raises(InvalidArgument):
        client.search("gallery", "zebracorn", top_k=20_000)
    time.sleep(0.5)
    assert all("zebracorn" not in own.log(name) and "turquoise" not in own.log(name) for name in SERVICES)


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
