from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fetching_kit import Command
from file_server import FileServer

from services.common.settings import Settings, load_settings
from services.fetching.downloads import Downloads


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(models_dir=tmp_path / "models", data_dir=tmp_path / "data")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        yield running


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits: what a test waits for is the order of things, not their time."""
    first = Downloads.__init__

    def short(self: Downloads, *args: object, **kwargs: object) -> None:
        first(self, *args, **{"read_timeout_s": 0.5, "attempts": 3, "pause_s": 0.01, **kwargs})  # type: ignore[arg-type]

    monkeypatch.setattr(Downloads, "__init__", short)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small real checkpoint: BERT in safetensors, in two parts, with an index."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    folder = tmp_path / "checkpoint"
    BertModel(BertConfig(vocab_size=300, **sizes)).save_pretrained(folder, max_shard_size="60KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("do as you like")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def command(settings: Settings, server: FileServer, tmp_path: Path) -> Command:
    return Command(settings, server, tmp_path / "hf")
