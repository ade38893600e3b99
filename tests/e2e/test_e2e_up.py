"""`warmer up` as somebody types it, other commands against it, Ctrl-C, and everything there again the next day."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from warmer.cli.stack import SERVICES

WARMER = [sys.executable, "-m", "warmer.cli"]


@contextmanager
def up(home: Path, *options: str) -> Iterator[dict[str, str]]:
    """Runs `warmer up` and gives an environment for the other commands; Ctrl-C must end it with 0."""
    command = [*WARMER, "up", "--json", "--data-dir", str(home), *options]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        assert process.stdout is not None
        text = b""
        while not text.endswith(b"}\n}\n"):
            line = process.stdout.readline()
            assert line, (home / "up.log").read_text()
            text += line
        ready = json.loads(text)
        assert set(ready["services"]) == ({"local"} if "--one-process" in options else set(SERVICES))
        yield os.environ | {"WARMER_TARGET": ready["target"]}
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (home / "up.log").read_text()
    finally:
        if process.poll() is None:
            process.terminate()  # asks the services to end, too
            process.wait(30)


def four_free_ports() -> int:
    """The first of four free ports in a row, where `warmer up` puts the services: then WARMER_TARGET is enough."""
    for first in range(20_000, 32_000, 4):  # below the ports that the system hands out
        with ExitStack() as held:
            try:
                for port in range(first, first + 4):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise AssertionError("no four free ports in a row")


def warmer(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*WARMER, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w", ignore_cleanup_errors=True) as folder:  # short: sockets lie in it
        yield Path(folder)


@pytest.mark.parametrize("way", ["one process", "four"])
def test_up_and_a_hunt_from_another_shell(home: Path, gallery: Path, way: str) -> None:
    options = ["--one-process"] if way == "one process" else ["--port", str(four_free_ports())]
    with up(home, *options) as environment:
        report = json.loads(warmer(environment, "index", str(gallery), "--json"))
        assert (report["added"], report["failures"]) == (report["total"], [])
        assert "coffee.png" in warmer(environment, "search", "a cup of espresso", "-k", "1")
        made = json.loads(warmer(environment, "session", "create", "--text", "a machine", "--json"))
        session = made["session"]["id"]
        first = warmer(environment, "session", "rounds", session, "--json")
    with up(home, *options) as environment:
        assert warmer(environment, "session", "rounds", session, "--json") == first
        listed = json.loads(warmer(environment, "collections", "list", "--json"))
        assert [collection["image_count"] for collection in listed] == [report["total"]]
        second = json.loads(warmer(environment, "refine", session, "-r", "@2", "-m", "red", "--json"))
        assert second["index"] == 1
        warmer(environment, "session", "finish", session, "--found", second["hits"][0]["image_id"])
