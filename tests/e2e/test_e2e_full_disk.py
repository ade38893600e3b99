"""A disk that is full for real: what was acknowledged stays, the error says what to do, and the service goes on."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from running import Running

from warmer import Client
from warmer.errors import ResourceExhausted, WarmerError
from warmer.types import NewImage

SIZE = 20 * 1024 * 1024
RESERVE = 6 * 1024 * 1024


def noise(number: int) -> bytes:
    """An image of about half a megabyte that does not compress."""
    pixels = np.random.default_rng(number).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def small() -> Iterator[Running]:
    """Warmer with a data folder on a file system of its own, of which a file `reserve` can be removed."""
    running = Running("processes")
    data = running.home / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(data)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        shutil.rmtree(running.home)
        pytest.skip("mounting a small file system is not allowed here (it takes root on Linux)")
    try:
        (data / "reserve").write_bytes(os.urandom(RESERVE))
        yield running.start()
    finally:
        if hasattr(running, "stack"):
            running.stack.stop()
        subprocess.run(["umount", "--lazy", str(data)], check=True)
        shutil.rmtree(running.home, ignore_errors=True)


def add(client: Client, numbers: range, acknowledged: set[int]) -> None:
    """Adds images and notes which were acknowledged, also when the stream ends with an error."""
    for result in client.collections.add_images("noise", (NewImage(f"{n}", noise(n)) for n in numbers)):
        assert result.error is None
        acknowledged.add(int(result.image_id))


def test_a_full_disk_loses_nothing_and_can_be_freed(small: Running) -> None:
    data: Path = small.home / "data"
    with small.client() as client:
        client.collections.create("noise")
        session = client.sessions.create("noise", page_size=3)
        acknowledged: set[int] = set()
        add(client, range(5), acknowledged)
        first = session.search("noise")
        with pytest.raises(ResourceExhausted) as caught:
            add(client, range(5, 100), acknowledged)
        assert caught.value.reason == "DISK_FULL"
        assert "free some space" in caught.value.hint
        assert 5 <= len(acknowledged) < 40
        assert {int(image.id) for image in client.collections.images("noise")} == acknowledged
        for number in acknowledged:
            assert client.collections.image_bytes("noise", f"{number}") == noise(number)
        assert len(client.search("noise", "noise", top_k=100).hits) == len(acknowledged)

        with (data / "rest").open("wb") as file:  # now there is no room for anything at all
            fill(file.fileno())
        with pytest.raises(WarmerError):
            add(client, range(200, 201), set())
        assert len(client.search("noise", "noise", top_k=100).hits) == len(acknowledged)

        (data / "rest").unlink()
        (data / "reserve").unlink()
        add(client, range(100, 105), acknowledged)
        assert len(client.search("noise", "noise", top_k=100).hits) == len(acknowledged)
        second = session.refine(relevant=[first.hits[0].image_id])
        assert list(session.rounds()) == [first, second]


def fill(handle: int) -> None:
    """Writes until there is no room left."""
    block = bytes(1 << 20)
    while block:
        try:
            os.write(handle, block)
        except OSError:
            block = block[: len(block) // 2]
