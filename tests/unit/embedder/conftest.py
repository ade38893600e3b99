import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from embedder_kit import Api, running, settings_for
from tiny_encoder import TinyEncoder

from services.common.settings import Settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: those of unix sockets are limited."""
    with tempfile.TemporaryDirectory(prefix="we-") as name:
        yield Path(name)


@pytest.fixture
def settings(folder: Path) -> Settings:
    return settings_for(folder)


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest_asyncio.fixture
async def api(settings: Settings, encoder: TinyEncoder) -> AsyncIterator[Api]:
    async with running(settings, encoder) as api:
        await api.create()
        yield api
