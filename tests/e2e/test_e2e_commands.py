"""The command line over real services, as a script would call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from running import Running


def warmer(running: Running, *arguments: str, code: int = 0) -> str:
    targets = ["--target", running.targets["orchestrator"], "--embedder", running.targets["embedder"]]
    command = [sys.executable, "-m", "warmer.cli", *arguments, *targets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def test_index_search_and_hunt(processes: Running, gallery: Path) -> None:
    report = json.loads(warmer(processes, "index", str(gallery), "--collection", "cli", "--json"))
    assert report["added"] >= 20
    found = json.loads(warmer(processes, "search", "a cup of espresso", "--collection", "cli", "--json"))
    assert found["hits"][0]["image_id"] == "coffee.png"
    made = json.loads(warmer(processes, "session", "create", "--collection", "cli", "--text", "a machine", "--json"))
    session = made.get("session", made).get("id") or made["session"]
    round = json.loads(warmer(processes, "refine", session, "--relevant", "@1", "--json"))
    assert round["index"] == 1
    rounds = json.loads(warmer(processes, "session", "rounds", session, "--json"))
    assert len(rounds) == 2
    warmer(processes, "session", "finish", session, "--found", round["hits"][0]["image_id"])


def test_exit_codes(processes: Running, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert "bad.jpg" in warmer(processes, "index", str(tmp_path), "--collection", "half", code=3)
    assert "nowhere" in warmer(processes, "search", "a cat", "--collection", "nowhere", code=4)
    gone = Running("processes")
    gone.targets = dict.fromkeys(("orchestrator", "embedder"), "localhost:1")
    assert "hint" in warmer(gone, "search", "a cat", code=5)
    gone.home.rmdir()


@pytest.mark.parametrize("arguments", [["demo", "--help"], ["up", "--help"], ["index", "--help"], ["--help"]])
def test_help_teaches(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "warmer.cli", *arguments], capture_output=True, text=True, check=True)
    assert "warmer" in done.stdout.lower()
    assert "exit codes" in done.stdout.lower()
