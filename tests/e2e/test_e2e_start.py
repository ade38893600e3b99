"""A start as a load balancer and an impatient client see it: NOT_SERVING and refusals first, then answers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from warmer.cli.stack import SERVICES, Child, Stack, four_services
from warmer.errors import from_rpc_error
from warmer.v1 import common_pb2, orchestrator_pb2

NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING


def full_name(name: str) -> str:
    return f"warmer.v1.{name.capitalize()}Service"


def health(channel: grpc.Channel, service: str) -> int | None:
    """The status of one service, or None when nobody listens yet."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=2).status
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return None


def ask(channel: grpc.Channel, name: str) -> str:
    """A small call: `answered`, or the reason why not."""
    method, request = "GetModel", common_pb2.GetModelRequest().SerializeToString()
    if name == "orchestrator":
        method, request = "GetSession", orchestrator_pb2.GetSessionRequest(name="sessions/none").SerializeToString()
    call = channel.unary_unary(f"/{full_name(name)}/{method}", request_serializer=bytes, response_deserializer=bytes)
    try:
        call(request, timeout=5)
    except grpc.RpcError as error:
        failure = from_rpc_error(error)
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            assert failure.retry_after_s or failure.reason != "WARMING_UP"
            return failure.reason
        assert failure.reason == "SESSION_NOT_FOUND"
    return "answered"


def look(child: Child) -> tuple[int | None, str]:
    with grpc.insecure_channel(child.target) as channel:
        status = health(channel, full_name(child.name))
        return status, "" if status is None else ask(channel, child.name)


def test_no_service_answers_before_it_is_warm() -> None:
    home = Path(tempfile.mkdtemp(prefix="w"))
    children, environment = four_services(home)
    environment |= {"WARMER_DATA_DIR": str(home / "data"), "WARMER_LOG_FORMAT": "json"}
    seen: dict[str, list[tuple[int | None, str]]] = defaultdict(list)
    try:
        with Stack(children, environment, 3.0) as stack:
            waiting, deadline = list(children), time.monotonic() + 120
            while waiting:
                stack.check()
                assert time.monotonic() < deadline, seen
                for child in list(waiting):
                    seen[child.name].append(look(child))
                    if seen[child.name][-1][0] == SERVING:
                        waiting.remove(child)
            for child in children:
                with grpc.insecure_channel(child.target) as channel:
                    assert health(channel, "") == SERVING
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert set(seen) == set(SERVICES)
    for name, looks in seen.items():
        assert looks[-1] == (SERVING, "answered"), name
        # A service may become ready between the two questions of one look.
        early = [reason for status, reason in looks[:-1] if status == NOT_SERVING]
        assert set(early[:-1]) <= {"WARMING_UP"}, (name, early)
    for name in ("embedder", "captioner"):  # their models take long enough to be seen loading
        assert (NOT_SERVING, "WARMING_UP") in seen[name], seen[name]
