"""Starts Warmer for real, for the tests: as four processes, or all in one. Used by contract and end-to-end tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from warmer import Client
from warmer.cli.stack import SERVICES, Child, Stack, four_services, is_serving


@dataclass
class Running:
    """A started Warmer. `home` is short, since unix sockets lie in it."""

    kind: str
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="w")))
    settings: dict[str, str] = field(default_factory=dict)
    stack: Stack = field(init=False)
    targets: dict[str, str] = field(init=False)

    def start(self) -> Running:
        environment = {"WARMER_DATA_DIR": str(self.home / "data"), "WARMER_LOG_FORMAT": "json", "WARMER_DRAIN_S": "3"}
        environment |= self.settings
        if self.kind == "local":
            address = f"unix:{self.home}/s"
            self.targets = dict.fromkeys(SERVICES, address)
            arguments = ["-m", "services.local", "--socket", f"{self.home}/s"]
            children = [Child("local", arguments, address, self.home / "local.log")]
        else:
            children, addresses = four_services(self.home)
            self.targets = {child.name: child.target for child in children}
            environment |= addresses
        self.environment = environment
        self.stack = Stack(children, environment, 3.0)
        self.stack.__enter__()
        try:
            self.stack.wait_ready(240, lambda child: None, lambda: time.sleep(0.1) is None)
        except BaseException:
            self.stop()
            raise
        return self

    def client(self) -> Client:
        return Client(self.targets["orchestrator"], embedder=self.targets["embedder"], round_timeout_s=120)

    def process(self, name: str) -> subprocess.Popen[bytes]:
        child = next(child for child in self.stack.children if child.name == name)
        assert child.process is not None
        return child.process

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a service and waits for its end; gives the exit code."""
        process = self.process(name)
        process.send_signal(number)
        return process.wait(30)

    def restart(self, name: str) -> None:
        child = next(child for child in self.stack.children if child.name == name)
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                [sys.executable, *child.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not is_serving(child.target):
            assert child.process.poll() is None, child.log_tail()
            assert time.monotonic() < deadline, f"{name} did not come back"
            time.sleep(0.1)

    def redis(self) -> list[psutil.Process]:
        """The embedded Redis servers of this stack."""
        return [
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if "valkey" in (process.info["name"] or "") and str(self.home) in " ".join(process.info["cmdline"] or ())
        ]

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self.stack.stop()
        for process in self.redis():
            process.kill()
        shutil.rmtree(self.home, ignore_errors=True)
