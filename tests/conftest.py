"""What all tests share: real photographs, and Warmer running in both of its ways."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Running

from warmer import Client
from warmer.cli.gallery import write_gallery

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample gallery."""
    folder = tmp_path_factory.mktemp("gallery")
    write_gallery(folder)
    return folder


@pytest.fixture(scope="session")
def flickr_val() -> Path:
    """flickr8k/val, where it lies beside the checkout."""
    folder = ROOT.parent / "shared" / "data" / "flickr8k" / "val"
    if not folder.is_dir():
        pytest.skip("the development photos (../shared/data/flickr8k/val) are not here")
    return folder


@pytest.fixture(scope="session")
def processes(gallery: Path) -> Iterator[Running]:
    """Four processes, with the gallery indexed as collection `gallery`."""
    yield from _running("processes", gallery)


@pytest.fixture(scope="session")
def local(gallery: Path) -> Iterator[Running]:
    """All services in one process, with the gallery indexed as collection `gallery`."""
    yield from _running("local", gallery)


@pytest.fixture(params=["local", "processes"])
def running(request: pytest.FixtureRequest) -> Running:
    """Each way in turn: the contract is the same."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with running.client() as client:
        yield client


def _running(kind: str, gallery: Path) -> Iterator[Running]:
    running = Running(kind).start()
    try:
        with running.client() as client:
            client.collections.create("gallery")
            report = client.collections.add_folder("gallery", gallery)
            assert not report.failures
        yield running
    finally:
        running.stop()
