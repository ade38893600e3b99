from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sdk_server import Server

from warmer import Client
from warmer.aio import Client as AioClient

JPEG = b"\xff\xd8\xff\xe0 the rest of a photo"
PNG = b"\x89PNG\r\n\x1a\n the rest of a drawing"


@pytest.fixture(autouse=True)
def _no_targets_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARMER_TARGET", "WARMER_EMBEDDER_TARGET", "WARMER_COLLECTION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(str(tmp_path_factory.mktemp("s") / "s.sock"))
    yield running
    running.stop().wait()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.target, timeout_s=10) as made:
        yield made


@pytest.fixture
async def aio_client(server: Server) -> AsyncIterator[AioClient]:
    async with AioClient(server.target, timeout_s=10) as made:
        yield made


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Two good photos, one in a folder below with a percent sign, a text named .jpg, an image without suffix."""
    root = tmp_path / "gallery"
    (root / "50%").mkdir(parents=True)
    (root / "a.jpg").write_bytes(JPEG + b"a")
    (root / "50%" / "b.jpg").write_bytes(JPEG + b"b")
    (root / "text.jpg").write_text("no photo")
    (root / "photo").write_bytes(PNG)
    (root / "notes.txt").write_text("notes")
    (root / ".hidden.jpg").write_bytes(JPEG)
    (root / ".cache").mkdir()
    (root / ".cache" / "c.jpg").write_bytes(JPEG)
    return root
