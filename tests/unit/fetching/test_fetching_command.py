"""The command: licences at a prompt, kills, what `verify`, `list` and `remove` say and return."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fetching_kit import DATA, Command, bring
from file_server import FileServer
from typer.testing import CliRunner

from services.common.fetched import fetched_folder
from services.common.settings import Settings
from services.fetching.choosing import is_weights
from services.fetching.registry import known_models
from services.models import Licence, accept
from warmer.cli import app
from warmer.errors import FailedPrecondition

LICENCE = Licence("a-model", "A Licence", "https://example.org/licence", must_accept=True)


def test_the_registry_is_well_formed() -> None:
    kinds = {model.kind for model in known_models().values()}
    assert kinds == {"embedder", "captioner", "rewriter"}
    for name, model in known_models().items():
        assert name == model.name
        assert bool(model.hub) + bool(model.url) + bool(model.by_hand) == 1
        assert model.licence
        assert model.licence_url.startswith("https://")
        assert model.option in ("--blip-weights", "--embedder-model", "--captioner-model", "--rewriter-model")
        assert not model.hub or "/" in model.hub
        assert model.revision == "" or len(model.revision) == 40
        assert is_weights(model.file or "model.safetensors")
        assert not model.url or model.url.endswith(model.file)


def test_no_licence_no_model(command: Command, server: FileServer, settings: Settings) -> None:
    server.files["/model.pth"] = DATA
    refused = command("fetch", "mine", "--from", f"{server.url}/model.pth", code=1)
    assert "has not been accepted" in refused.stderr
    assert "--accept-licence" in refused.stderr
    assert not server.requests
    assert not fetched_folder(settings, "mine").exists()


@pytest.mark.parametrize(("answer", "accepted"), [("yes\n", True), ("no\n", False), ("\n", False)])
def test_the_prompt(answer: str, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs, "r", closefd=False) as reading, os.fdopen(os.dup(theirs), "w") as writing:
        monkeypatch.setattr("sys.stdin", reading)
        monkeypatch.setattr("sys.stderr", writing)
        if accepted:
            assert accept(LICENCE, yes=False).endswith("at the prompt")
        else:
            with pytest.raises(FailedPrecondition) as caught:
                accept(LICENCE, yes=False)
            assert caught.value.reason == "LICENCE_NOT_ACCEPTED"
    os.close(ours)
    os.close(theirs)


def test_the_question_on_a_terminal(command: Command, server: FileServer, settings: Settings) -> None:
    server.files["/model.pth"] = DATA
    ours, theirs = pty.openpty()
    arguments = ["fetch", "mine", "--from", f"{server.url}/model.pth"]
    process = subprocess.Popen(
        [sys.executable, "-m", "services.models", *arguments],
        env=command.environment | {"TERM": "xterm", "COLUMNS": "100"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    _read_until(ours, b"Type yes: ")
    os.write(ours, b"yes\n")
    told = _read_until(ours, b"mine is there: 1 file, 1.0 MB")
    assert process.wait(30) == 0
    assert b"/s" in told  # the bar has a rate
    os.close(ours)
    assert fetched_folder(settings, "mine").is_dir()


def _read_until(terminal: int, text: bytes) -> bytes:
    told = b""
    while text not in told:
        told += os.read(terminal, 4096)
    return told


def test_a_killed_fetch_goes_on(command: Command, server: FileServer, settings: Settings) -> None:
    server.files["/model.pth"], server.delay_s = DATA, 0.1
    fetch = ("fetch", "mine", "--from", f"{server.url}/model.pth", "--accept-licence")
    part = settings.models_dir / "fetched" / ".mine.part" / "model.pth.part"
    running = command.start(*fetch)
    _wait_for(lambda: part.is_file() and part.stat().st_size > 300_000)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    have = part.stat().st_size
    half = _models(command, "list")[0]
    assert not fetched_folder(settings, "mine").exists()
    assert (half["name"], half["state"]) == ("mine", "partial")
    server.delay_s = 0.0
    ask = len(server.requests)
    command(*fetch)
    assert server.requests[ask][1]["range"] == f"bytes={have}-"
    assert (fetched_folder(settings, "mine") / "model.pth").read_bytes() == DATA


def test_an_interrupted_fetch_says_that_it_goes_on(command: Command, server: FileServer, settings: Settings) -> None:
    server.files["/model.pth"], server.delay_s = DATA, 0.1
    running = command.start("fetch", "blip-coco", "--from", f"{server.url}/model.pth")
    staging = settings.models_dir / "fetched" / ".blip-coco.part"
    _wait_for(lambda: any(staging.glob("*.part")))
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "goes on where it stopped" in err
    rows = {row["name"]: row for row in json.loads(command("list", "--json").stdout)["models"]}
    assert rows["blip-coco"]["state"] == "partial"
    assert rows["blip-coco"]["size"] > 0
    command("remove", "blip-coco")
    assert not staging.exists()


def test_verify_finds_a_flipped_byte_and_list_a_lost_file(
    command: Command, settings: Settings, checkpoint: Path
) -> None:
    bring(settings, "mine", str(checkpoint))
    bring(settings, "org/other", str(checkpoint))
    command("verify", "mine", "org/other")
    victim = sorted(fetched_folder(settings, "mine").glob("*.safetensors"))[0]
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    told = command("verify", "mine", code=1)
    assert f"mine: {victim.name} has sha256" in told.stderr
    assert {r["name"]: r["state"] for r in _models(command, "list")}["mine"] == "ok"  # it compares sizes
    victim.unlink()
    rows = {row["name"]: row for row in _models(command, "list")}
    assert rows["mine"]["state"] == "damaged"
    assert "No such file" in rows["mine"]["problems"][0]
    assert rows["org/other"]["state"] == "ok"
    assert rows["org/other"]["size"] == sum(p.stat().st_size for p in checkpoint.iterdir())
    assert rows["llama-3.1-8b-instruct"]["state"] == "not fetched"
    assert rows["llama-3.1-8b-instruct"]["accept_licence"] is True


def test_verify_takes_the_compact_models_along(command: Command, settings: Settings) -> None:
    everything = json.loads(command("verify", "--json").stdout)
    assert {row["state"] for row in everything["compact"]} == {"ok"}
    assert everything["models"] == []
    assert json.loads(command("verify", "compact", "--json").stdout) == everything
    assert "mine has not been fetched" in command("verify", "mine", code=4).stderr


def test_a_folder_without_a_lock_cannot_be_verified(command: Command, settings: Settings, checkpoint: Path) -> None:
    folder = fetched_folder(settings, "by-hand")
    folder.parent.mkdir(parents=True)
    checkpoint.rename(folder)
    assert "no warmer.lock" in command("verify", "by-hand", code=1).stderr
    (folder / "warmer.lock").write_text("{")
    assert "cannot be read" in command("verify", "by-hand", code=1).stderr


def test_remove(command: Command, settings: Settings, checkpoint: Path) -> None:
    bring(settings, "mine", str(checkpoint))
    assert "are free again" in command("remove", "mine").stderr
    assert list((settings.models_dir / "fetched").iterdir()) == []
    assert "mine has not been fetched" in command("remove", "mine", code=4).stderr


def test_warmer_models_passes_everything_on(
    command: Command, settings: Settings, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in command.environment.items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    fetch = ["models", "fetch", "mine", "--from", str(checkpoint), "--link", "--accept-licence"]
    assert runner.invoke(app, fetch).exit_code == 0
    assert next(fetched_folder(settings, "mine").glob("*.safetensors")).is_symlink()
    assert runner.invoke(app, ["models", "verify", "mine"]).exit_code == 0
    assert runner.invoke(app, ["models", "verify", "other"]).exit_code == 4
    assert runner.invoke(app, ["models", "list", "--json"]).exit_code == 0
    assert runner.invoke(app, ["models", "remove", "mine", "--yes"]).exit_code == 0
    assert runner.invoke(app, ["models", "fetch", "unknown"]).exit_code == 4
    assert not fetched_folder(settings, "mine").exists()


def _models(command: Command, verb: str) -> list[dict[str, object]]:
    models: list[dict[str, object]] = json.loads(command(verb, "--json").stdout)["models"]
    return models


def _wait_for(condition: object) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
