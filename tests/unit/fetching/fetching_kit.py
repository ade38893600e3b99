"""What the tests of fetching share: content, a fetch that accepts licences, and the command as a process of its own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from file_server import FileServer

from services.common.settings import Settings
from services.fetching.fetch import Licence, Request, fetch
from services.fetching.lock import Lock
from services.fetching.progress import ProgressBar

DATA = random.Random(0).randbytes(1_000_000)


def bring(settings: Settings, name: str, source: str = "", **options: object) -> Lock:
    """Fetches as the command does, and accepts whatever licence there is."""

    def accept(licence: Licence) -> str:
        return "by a test" if licence.must_accept else ""

    with ProgressBar() as progress:
        return fetch(settings, Request(name, source, **options), accept, progress)  # type: ignore[arg-type]


class Command:
    """`python -m services.models` as a process of its own, against a hub and folders of this test."""

    def __init__(self, settings: Settings, server: FileServer, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WARMER_", "HF_"))}
        self.environment = kept | {
            "WARMER_MODELS_DIR": str(settings.models_dir),
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(home),
            "NO_PROXY": "127.0.0.1",
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "services.models", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, text=True, stdin=pipe, stdout=pipe, stderr=pipe)

    def __call__(self, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate("", timeout=60)
        assert process.returncode == code, (process.returncode, out, err)
        return subprocess.CompletedProcess(arguments, code, out, err)
