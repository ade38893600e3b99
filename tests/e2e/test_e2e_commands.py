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
    session, first = made["session"]["id"], made["round"]
    marked = first["hits"][0]["image_id"]
    round = json.loads(warmer(processes, "refine", session, "--relevant", "@1", "--comment", "in colour", "--json"))
    assert (round["index"], round["feedback"]["relevant"]) == (1, [marked])
    rounds = json.loads(warmer(processes, "session", "rounds", session, "--json"))
    assert [r["hits"] for r in rounds] == [first["hits"], round["hits"]]
    branch = json.loads(warmer(processes, "session", "branch", session, "0", "--json"))["session"]["id"]
    assert session in warmer(processes, "session", "list")
    found = round["hits"][0]["image_id"]
    warmer(processes, "session", "finish", session, "--found", found)
    assert json.loads(warmer(processes, "session", "show", session, "--json"))["found_image_id"] == found
    assert "finished" in warmer(processes, "refine", session, code=1)
    assert warmer(processes, "refine", branch).count("\n") >= 10
    warmer(processes, "session", "delete", branch)
    assert branch in warmer(processes, "session", "show", branch, code=4)


def test_collections_from_the_shell(processes: Running, gallery: Path, tmp_path: Path) -> None:
    photos = [str(gallery / name) for name in ("coffee.png", "rocket.jpg")]
    warmer(processes, "collections", "create", "shell", "--description", "two of them")
    added = json.loads(warmer(processes, "collections", "add", "shell", *photos, "--json"))
    assert [result["outcome"] for result in added] == ["added", "added"]
    assert json.loads(warmer(processes, "collections", "show", "shell", "--json"))["image_count"] == 2
    out = tmp_path / "small.jpg"
    warmer(processes, "collections", "export-image", "shell", "rocket.jpg", "--out", str(out), "--max-edge", "64")
    with Image.open(out) as small:
        assert max(small.size) == 64
    assert "nope" in warmer(processes, "collections", "remove", "shell", "rocket.jpg", "nope", code=3)
    assert warmer(processes, "collections", "images", "shell").startswith("coffee.png\timage/png")
    assert "--yes" in warmer(processes, "collections", "delete", "shell", code=1)
    warmer(processes, "collections", "delete", "shell", "--yes")
    assert "shell" in warmer(processes, "collections", "show", "shell", code=4)


def test_exit_codes(processes: Running, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    assert "bad.jpg" in warmer(processes, "index", str(tmp_path), "--collection", "half", code=3)
    assert "nowhere" in warmer(processes, "search", "a cat", "--collection", "nowhere", code=4)
    assert "none-such" in warmer(processes, "refine", "none-such", "--comment", "x", code=4)
    assert "empty" in warmer(processes, "search", " ", "--collection", "gallery", code=1)
    warmer(processes, "search", "a cat", "--top-k", "0", code=2)
    gone = Running("processes")
    gone.targets = dict.fromkeys(("orchestrator", "embedder"), "localhost:1")
    assert "hint" in warmer(gone, "search", "a cat", code=5)
    gone.home.rmdir()


@pytest.mark.parametrize("arguments", [["demo", "--help"], ["up", "--help"], ["index", "--help"], ["--help"]])
def test_help_teaches(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "warmer.cli", *arguments], capture_output=True, text=True, check=True)
    assert "warmer" in done.stdout.lower()
    assert "exit codes" in done.stdout.lower()
