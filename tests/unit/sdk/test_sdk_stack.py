"""`warmer up`'s machinery over real processes: small servers that answer health checks, die, or drain."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sdk_server import Server
from typer.testing import CliRunner

from warmer import errors
from warmer.cli import app, stack, up
from warmer.cli.stack import Child, LogTail, Stack

SERVE = """
import signal, sys, threading, time
sys.path.insert(0, {helpers!r})
import grpc, sdk_server
from concurrent import futures
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
print("starting", flush=True)
time.sleep({delay})
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((sdk_server.Health(),))
server.add_insecure_port({target!r})
server.start()
stopped.wait({lifetime})
print("drained" if stopped.is_set() else "broke down", flush=True)
sys.exit(0 if stopped.is_set() else 7)
"""


def child(folder: Path, name: str, *, delay: float = 0, lifetime: float = 60) -> Child:
    target = f"unix:{folder / name}.sock"
    code = SERVE.format(helpers=str(Path(__file__).parent), delay=delay, target=target, lifetime=lifetime)
    return Child(name, ["-c", code], target, folder / "logs" / f"{name}.log")


def pause() -> bool:
    time.sleep(0.02)
    return True


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("u")


def test_starts_waits_and_drains(folder: Path) -> None:
    children = [child(folder, "a"), child(folder, "b", delay=0.3)]
    ready: list[str] = []
    with Stack(children, {}, drain_s=5) as running:
        assert running.wait_ready(30, lambda c: ready.append(c.name), pause)
        running.check()
        assert stack.is_serving(children[0].target)
    assert sorted(ready) == ["a", "b"]
    for one in children:
        assert one.process is not None
        assert one.process.returncode == 0
        assert one.log.read_text().splitlines() == ["starting", "drained"]


def test_says_which_died_and_shows_its_log(folder: Path) -> None:
    children = [child(folder, "a"), child(folder, "b", lifetime=0.2)]
    with pytest.raises(errors.Internal) as caught, Stack(children, {}, drain_s=5) as running:
        running.wait_ready(30, lambda c: None, pause)
        while pause():
            running.check()
    assert "b exited with code 7" in caught.value.message
    assert "broke down" in caught.value.message
    assert caught.value.reason == "SERVICE_DIED"
    assert children[0].process is not None
    assert children[0].process.returncode == 0  # the other one was drained, not left behind


def test_not_ready_in_time(folder: Path) -> None:
    with (
        pytest.raises(errors.DeadlineExceeded) as caught,
        Stack([child(folder, "a", delay=60)], {}, drain_s=0) as running,
    ):
        running.wait_ready(0.3, lambda c: None, pause)
    assert caught.value.reason == "NOT_READY"


def test_waiting_can_be_stopped(folder: Path) -> None:
    with Stack([child(folder, "a", delay=60)], {}, drain_s=0) as running:
        assert running.wait_ready(30, lambda c: None, lambda: False) is False


def test_environment_reaches_the_child_and_the_last_log_is_kept(folder: Path) -> None:
    log = folder / "logs" / "e.log"
    for value in ("one", "two"):
        one = Child("e", ["-c", "import os; print(os.environ['WARMER_X'])"], "unix:/nowhere", log)
        with Stack([one], {"WARMER_X": value}, drain_s=5):
            assert one.process is not None
            one.process.wait(30)
    assert log.read_text() == "two\n"
    assert log.with_suffix(".log.1").read_text() == "one\n"


def test_log_tail_gives_whole_lines_with_names(folder: Path) -> None:
    log = folder / "x.log"
    log.write_bytes(b"one\ntw")
    lines: list[str] = []
    tail = LogTail([Child("x", [], "", log)], lines.append)
    tail.copy()
    with log.open("ab") as file:
        file.write(b"o\nthree \xff\n")
    tail.close()
    assert lines == ["x: one", "x: two", "x: three \ufffd"]


def test_health_check(server: Server) -> None:
    assert stack.is_serving(server.target)
    server.health.answer = b"\x08\x02"  # NOT_SERVING
    assert not stack.is_serving(server.target)
    assert not stack.is_serving("127.0.0.1:1", timeout_s=0.5)


def test_up_refuses_a_port_that_serves_already(server: Server, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(stack, "_NEEDED", ())
    arguments = ["up", "--port", str(server.port), "--data-dir", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "running at localhost" in result.stderr


def test_up_without_the_services(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(stack, "_NEEDED", ("no_such_package_of_anybody",))
    for arguments in (["up", "--data-dir", str(folder)], ["models", "install"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1
        assert "hint: pip install 'warmer[services]'" in result.stderr


def test_up_names_the_socket_that_is_too_long(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(stack, "_NEEDED", ())
    result = CliRunner().invoke(app, ["up", "--one-process", "--data-dir", str(folder / ("x" * 100))])
    assert result.exit_code == 1
    assert "too long for a unix socket" in result.stderr


def test_settings_come_from_the_environment_then_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("WARMER_"):
            monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("# ports\nWARMER_EMBEDDER_PORT=6001\nexport WARMER_REWRITER_PORT='6003'\n")
    monkeypatch.setenv("WARMER_CAPTIONER_PORT", "6002")
    environment: dict[str, str] = {}
    targets = {c.name: c.target for c in up._four(tmp_path, None, environment)}
    assert targets == {
        "orchestrator": "localhost:50050",
        "embedder": "localhost:6001",
        "captioner": "localhost:6002",
        "rewriter": "localhost:6003",
    }
    assert environment == {}


def test_a_port_moves_all_four(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    children = up._four(tmp_path, 7000, environment)
    assert [c.target for c in children] == [f"localhost:{port}" for port in (7000, 7001, 7002, 7003)]
    assert environment["WARMER_EMBEDDER_PORT"] == "7001"
    assert environment["WARMER_REWRITER_TARGET"] == "localhost:7003"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_drains_all_on_a_signal(folder: Path, number: signal.Signals) -> None:
    """The command as a process: prints JSON once all serve, drains its children on a signal, exits with 0."""
    one, two = child(folder, "orchestrator"), child(folder, "embedder")
    facts = [(c.name, c.arguments, c.target, str(c.log)) for c in (one, two)]
    code = (
        "from pathlib import Path\n"
        "from warmer.cli import main, stack, up\n"
        "from warmer.cli.stack import Child\n"
        "stack._NEEDED = ()\n"
        f"children = [Child(n, a, t, Path(l)) for n, a, t, l in {facts!r}]\n"
        "up._four = lambda *_: children\n"
        "main()\n"
    )
    arguments = [sys.executable, "-c", code, "up", "--json", "--verbose", "--data-dir", str(folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = ""
    while not printed.endswith("}\n}\n") and (line := process.stdout.readline()):
        printed += line.lstrip()
    targets = {"orchestrator": one.target, "embedder": two.target}
    assert json.loads(printed) == {"target": one.target, "services": targets, "problems": {}}
    process.send_signal(number)
    rest, messages = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, "")
    assert "embedder: starting" in messages
    for each in (one, two):
        assert each.log.read_text().splitlines() == ["starting", "drained"]
        assert not stack.is_serving(each.target, timeout_s=0.5)


def test_up_in_a_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(stack, "_NEEDED", ())
    (folder / "file").touch()
    result = CliRunner().invoke(app, ["up", "--data-dir", str(folder / "file" / "below")])
    assert result.exit_code == 1
    assert "error: cannot make the folder" in result.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_up_shows_a_service_that_dies_at_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The whole command over real processes: a service that cannot start ends it, with its log on stderr."""
    monkeypatch.setattr(stack, "_NEEDED", ())
    broken = Child(
        "embedder", ["-c", "import sys; sys.exit('no weights')"], f"localhost:{free_port()}", folder / "e.log"
    )
    monkeypatch.setattr(up, "_four", lambda *_: [broken])
    result = CliRunner().invoke(app, ["up", "--data-dir", str(folder)])
    assert result.exit_code == 1
    assert "embedder exited with code 1" in result.stderr
    assert "no weights" in result.stderr
    assert sys.executable  # the children run on this interpreter


BROKEN = """
import asyncio, sys
sys.path.insert(0, {helpers!r})
from tiny_embedder import TinyEmbedder, service
from services.common.server import serve
from services.common.settings import load_settings
from warmer.errors import FailedPrecondition

async def build(settings):
    async def warm():
        raise FailedPrecondition("the checkpoint is cut off", reason="MODEL_DAMAGED", hint="bring it again")
    return service(TinyEmbedder(settings), warm)

sys.exit(asyncio.run(serve(load_settings(), "embedder", {address!r}, build)))
"""


def broken_embedder(folder: Path) -> Child:
    address = f"unix:{folder}/broken.sock"
    helpers = str(Path(__file__).parents[1] / "common")
    return Child("embedder", ["-c", BROKEN.format(helpers=helpers, address=address)], address, folder / "broken.log")


def test_a_service_that_cannot_load_its_model_says_why(folder: Path) -> None:
    with Stack([broken_embedder(folder)], {}, drain_s=5) as running:
        with pytest.raises(errors.FailedPrecondition) as caught:
            running.wait_ready(30, lambda _: None, pause)
        assert caught.value.reason == "MODEL_DAMAGED"
        told: list[tuple[str, str]] = []
        assert running.wait_ready(30, lambda _: None, pause, lambda name, error: told.append((name, error.reason)))
        assert told == [("embedder", "MODEL_DAMAGED")]
        running.check()  # it stays up


def test_up_ends_with_the_reason_when_the_embedder_cannot_serve(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(stack, "_NEEDED", ())
    monkeypatch.setattr(up, "_four", lambda *_: [broken_embedder(folder)])
    result = CliRunner().invoke(app, ["up", "--data-dir", str(folder)])
    assert result.exit_code == 1
    assert "error: embedder cannot serve: the checkpoint is cut off" in result.stderr
    assert "hint: bring it again" in result.stderr


def test_models_list_hands_over_to_the_services() -> None:
    code = "from warmer.cli import main; main()"
    command = [sys.executable, "-c", code, "models", "list", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"package", "version", "file", "state"} <= json.loads(done.stdout)["compact"][0].keys()
