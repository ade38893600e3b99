"""The demo's command from its start to its contact sheet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image


def test_demo_finds_the_photo_and_draws_the_rounds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "warmer.cli", "demo", "--scripted", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found rocket.jpg" in done.stdout
    assert "the captioner says of china.jpg" in done.stdout
    assert "the rewriter makes of it" in done.stdout
    with Image.open(tmp_path / "demo" / "rounds.png") as sheet:
        assert sheet.width > 500
