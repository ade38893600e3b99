from __future__ import annotations

import json
import subprocess
from pathlib import Path

import grpc
import grpc.aio
import pytest
from sdk_server import Server

from warmer import Client, Tls, channel, errors
from warmer.aio import Client as AioClient
from warmer.v1 import captioner_pb2, common_pb2, embedder_pb2, embedder_pb2_grpc, orchestrator_pb2, rewriter_pb2


def test_retries_only_idempotent_methods_and_unavailable() -> None:
    (method,) = json.loads(channel.service_config())["methodConfig"]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    harmless = ("Get", "List", "Embed", "Rank", "Put")
    for name in method["name"]:
        assert name["method"].startswith(harmless) or name["method"] == "Search"


def test_every_idempotent_method_exists_and_none_is_forgotten() -> None:
    files = (embedder_pb2, captioner_pb2, rewriter_pb2, orchestrator_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    harmless = ("Get", "List", "Embed", "RankImages", "Put")
    expected = {
        service.full_name: {m.name for m in service.methods if m.name.startswith(harmless) or m.name == "Search"}
        for service in services
    }
    assert {name: set(methods) for name, methods in channel.IDEMPOTENT_METHODS.items()} == expected


def test_message_limits_are_explicit_and_options_win() -> None:
    options = dict(channel.channel_options(extra=[("grpc.keepalive_time_ms", 5)]))
    assert options["grpc.max_send_message_length"] == channel.MAX_MESSAGE_BYTES == 67_108_864
    assert options["grpc.max_receive_message_length"] == channel.MAX_MESSAGE_BYTES
    assert options["grpc.keepalive_time_ms"] == 5
    assert dict(channel.server_options(5))["grpc.max_receive_message_length"] == 5


@pytest.mark.parametrize(
    ("target", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.9.1", True),
        ("[::1]:50050", True),
        ("::1", True),
        ("unix:/tmp/x", True),
        ("unix-abstract:x", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1", True),
        ("example.com:1", False),
        ("localhost.example.com:1", False),
        ("10.0.0.1:1", False),
        ("dns:///example.com:1", False),
    ],
)
def test_is_local(target: str, local: bool) -> None:
    assert channel.is_local(target) is local


@pytest.mark.parametrize(
    ("target", "embedder"),
    [
        ("localhost:50050", "localhost:50051"),
        ("[::1]:7", "[::1]:8"),
        ("dns:///warmer.example:7", "dns:///warmer.example:8"),
        ("unix:/run/w.sock", "unix:/run/w.sock"),
    ],
)
def test_embedder_is_the_neighbour(target: str, embedder: str) -> None:
    assert channel.neighbour(target) == embedder


@pytest.mark.parametrize("target", ["", "  ", "http://localhost:50050", "localhost", "dns:///warmer"])
def test_bad_targets(target: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        channel.neighbour(target)
    assert caught.value.reason == "BAD_TARGET"


def test_targets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        assert (client.targets.orchestrator, client.targets.embedder) == ("localhost:50050", "localhost:50051")
    monkeypatch.setenv("WARMER_TARGET", "a:1")
    monkeypatch.setenv("WARMER_EMBEDDER_TARGET", "b:2")
    with Client() as client:
        assert (client.targets.orchestrator, client.targets.embedder) == ("a:1", "b:2")
    with Client("c:3", embedder="d:4") as client:
        assert (client.targets.orchestrator, client.targets.embedder) == ("c:3", "d:4")
    with Client("unix:/tmp/nowhere.sock") as client:  # one socket serves all; the variable is of something else
        assert client.targets.embedder == "unix:/tmp/nowhere.sock"


def test_default_deadline_and_request_id(server: Server) -> None:
    with Client(server.target, timeout_s=7) as client:
        client.model()
    assert 5 < server.calls.remaining[-1] < 7.5
    assert len(server.calls.metadata[-1]["x-request-id"]) == 32


async def test_default_deadline_and_request_id_aio(server: Server) -> None:
    async with AioClient(server.target, timeout_s=7) as client:
        await client.model()
        [c async for c in client.collections.list()]
    assert 5 < server.calls.remaining[-1] < 7.5
    assert len(server.calls.metadata[-1]["x-request-id"]) == 32


def test_bare_channel_sets_deadline_for_streams_too(server: Server) -> None:
    server.embedder.collections["c"] = {"i": b"12345"}
    with channel.make_channel(server.target, timeout_s=9) as bare:
        stub = embedder_pb2_grpc.EmbedderServiceStub(bare)
        list(stub.GetImageContent(embedder_pb2.GetImageContentRequest(name="collections/c/images/i")))
    assert 7 < server.calls.remaining[-1] < 9.5
    assert server.calls.metadata[-1]["x-request-id"]


async def test_own_deadline_and_request_id_are_kept(server: Server) -> None:
    bare = channel.make_aio_channel(server.target, timeout_s=9)
    stub = embedder_pb2_grpc.EmbedderServiceStub(bare)
    await stub.GetModel(common_pb2.GetModelRequest(), timeout=3, metadata=(("x-request-id", "mine"),))
    await bare.close(None)
    assert server.calls.remaining[-1] < 3.5
    assert server.calls.metadata[-1]["x-request-id"] == "mine"


def test_idempotent_call_is_retried_on_unavailable(server: Server, client: Client) -> None:
    server.calls.unavailable["GetModel"] = 2
    assert client.model().id == "tiny-1"
    assert server.calls.counts["GetModel"] == 3


async def test_idempotent_call_is_retried_on_unavailable_aio(server: Server, aio_client: AioClient) -> None:
    server.calls.unavailable["GetModel"] = 2
    assert (await aio_client.model()).id == "tiny-1"
    assert server.calls.counts["GetModel"] == 3


def test_other_calls_are_not_retried(server: Server, client: Client) -> None:
    server.calls.unavailable["CreateCollection"] = 1
    with pytest.raises(errors.Unavailable) as caught:
        client.collections.create("c")
    assert (caught.value.reason, caught.value.retry_after_s) == ("NOT_READY", 0.05)
    assert server.calls.counts["CreateCollection"] == 1


def test_deadline_is_an_error_of_the_tree(server: Server) -> None:
    server.calls.delays["GetModel"] = 1.0
    with Client(server.target, timeout_s=0.2) as client, pytest.raises(errors.DeadlineExceeded) as caught:
        client.model()
    assert caught.value.metadata["request_id"]


def test_token_goes_to_this_machine_only(server: Server) -> None:
    with Client(server.tcp_target, embedder=server.tcp_target, token="secret") as client:
        client.model()
    assert server.calls.metadata[-1]["authorization"] == "Bearer secret"
    for kind in (Client, AioClient):
        with pytest.raises(errors.InvalidArgument) as caught:
            kind("example.com:50050", token="secret")
        assert caught.value.reason == "TOKEN_WITHOUT_TLS"


def test_unreadable_certificate(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        Client("localhost:1", tls=Tls(root_certificates=tmp_path / "none.pem"))
    assert caught.value.reason == "BAD_TLS_FILE"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, pem = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return key, pem


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_with_token(certificate: tuple[Path, Path], mutual: bool) -> None:
    key, pem = certificate
    seen: list[dict[str, str]] = []

    class Servicer(embedder_pb2_grpc.EmbedderServiceServicer):
        async def GetModel(self, request: object, context: grpc.aio.ServicerContext) -> common_pb2.Model:
            seen.append(dict(context.invocation_metadata()))
            return common_pb2.Model(id="over tls")

    pair = [(key.read_bytes(), pem.read_bytes())]
    roots = pem.read_bytes() if mutual else None
    server = grpc.aio.server()
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(Servicer(), server)
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials(pair, roots, mutual))
    await server.start()
    tls = Tls(pem, pem, key) if mutual else Tls(pem)
    async with AioClient(f"localhost:{port}", embedder=f"localhost:{port}", tls=tls, token="secret") as client:
        assert (await client.model()).id == "over tls"
    await server.stop(None)
    assert seen[0]["authorization"] == "Bearer secret"
