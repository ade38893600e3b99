"""Starts the four services as processes of their own, on free ports and a data folder that is thrown away."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.machine import cpu_seconds
from benchmarks.photos import Photo
from warmer import Client
from warmer.cli.stack import Child, Stack

SERVICES = ("orchestrator", "embedder", "captioner", "rewriter")
_READY_S = 300.0
_DRAIN_S = 5.0


@dataclass(frozen=True)
class Running:
    """Four running services and a client of them."""

    client: Client
    processes: dict[str, psutil.Process]

    def cpu(self) -> dict[str, float]:
        """Processor time used so far, in seconds: each service's own process, and `<name>.helpers` for its children
        (decoders, the embedded Redis)."""
        used = {}
        for name, process in self.processes.items():
            used[name] = cpu_seconds(process)
            used[f"{name}.helpers"] = sum(cpu_seconds(child) for child in process.children(recursive=True))
        return used


@contextmanager
def running(data_dir: Path, **settings: object) -> Iterator[Running]:
    """The four services, warm. `settings` are those of `services.common.settings`, by name.

    Raises Internal (SERVICE_DIED) or DeadlineExceeded (NOT_READY) with what the log says.
    """
    targets = {name: f"127.0.0.1:{port}" for name, port in zip(SERVICES, _free_ports(len(SERVICES)), strict=True)}
    environment = {"WARMER_DATA_DIR": str(data_dir), "WARMER_LOG_LEVEL": "warning"}
    for name, target in targets.items():
        environment[f"WARMER_{name.upper()}_PORT"] = target.rpartition(":")[2]
        environment[f"WARMER_{name.upper()}_TARGET"] = target
    environment |= {f"WARMER_{name.upper()}": str(value) for name, value in settings.items()}
    logs = data_dir / "logs"
    children = [Child(name, ["-m", f"services.{name}"], targets[name], logs / f"{name}.log") for name in SERVICES]
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(Stack(children, environment, _DRAIN_S))
        stack.wait_ready(_READY_S, lambda _child: None, _pause)
        client = cleanup.enter_context(Client(targets["orchestrator"], embedder=targets["embedder"]))
        pids = {child.name: child.process.pid for child in stack.children if child.process is not None}
        yield Running(client, {name: psutil.Process(pid) for name, pid in pids.items()})
        stack.check()


def index(client: Client, collection: str, photos: Sequence[Photo]) -> float:
    """Makes a collection of the photos and returns the seconds that adding took.

    Raises RuntimeError when a photo was not added: a rate with failures in it would be no rate.
    """
    client.collections.create(collection)
    begin = time.perf_counter()
    results = list(client.collections.add_images(collection, (photo.new_image() for photo in photos)))
    seconds = time.perf_counter() - begin
    wrong = [result for result in results if result.outcome != "added"]
    if wrong or len(results) != len(photos):
        raise RuntimeError(f"{len(results)} results for {len(photos)} photos; not added: {wrong[:3]}")
    return seconds


def _pause() -> bool:
    time.sleep(0.1)
    return True


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is found, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
