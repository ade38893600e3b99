"""Starts the four services as processes of their own, on free ports and a data folder that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.machine import cpu_seconds
from benchmarks.photos import Photo
from warmer import Client
from warmer.cli.stack import Stack, four_services

_READY_S = 300.0
_DRAIN_S = 5.0


@dataclass(frozen=True)
class Running:
    """Running services, all four or fewer, and a client of them."""

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
def running(data_dir: Path, services: Sequence[str] = (), **settings: object) -> Iterator[Running]:
    """The four services, or those that are named, warm. `settings` are those of `services.common.settings`, by name.

    Raises Internal (SERVICE_DIED) or DeadlineExceeded (NOT_READY) with what the log says.
    """
    children, environment = four_services(data_dir / "logs")
    targets = {child.name: child.target for child in children}
    children = [child for child in children if not services or child.name in services]
    environment |= {"WARMER_DATA_DIR": str(data_dir), "WARMER_LOG_LEVEL": "warning"}
    environment |= {f"WARMER_{name.upper()}": str(value) for name, value in settings.items()}
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
