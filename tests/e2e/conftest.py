"""What the tests share that kill things: four processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running

from warmer import Client


@pytest.fixture(scope="session")
def own(gallery: Path) -> Iterator[Running]:
    """Four processes that may be killed, if they are started again; a silent owner loses its round after 2 s."""
    running = Running("processes", settings={"WARMER_ROUND_LEASE_S": "2"}).start()
    try:
        with running.client() as client:
            client.collections.create("gallery")
            client.collections.add_folder("gallery", gallery)
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(own: Running) -> Iterator[Client]:
    with own.client() as client:
        yield client
