"""The protos are clean, and the committed stubs are what they give."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_buf_lint() -> None:
    done = run("buf", "lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_stubs_are_up_to_date() -> None:
    done = run(sys.executable, "scripts/protos.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
