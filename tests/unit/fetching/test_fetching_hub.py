"""Fetching from a hub: the real client and our downloads against a server that speaks the routes that they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fetching_kit import Command
from file_server import COMMIT, FileServer

from services.common.fetched import fetched_folder
from services.common.settings import Settings

REPOSITORY = "tiny/model"
PIECE = 1 << 16  # a download is kept in pieces of this size


@pytest.fixture
def hub(server: FileServer, checkpoint: Path) -> FileServer:
    server.add_repository(REPOSITORY, checkpoint)
    return server


def test_a_repository_comes_and_loads(command: Command, hub: FileServer, settings: Settings, checkpoint: Path) -> None:
    from transformers import AutoModel

    lock = json.loads(command("fetch", REPOSITORY, "--accept-licence", "--json").stdout)
    folder = fetched_folder(settings, REPOSITORY)
    assert {path.name for path in folder.iterdir()} == {path.name for path in checkpoint.iterdir()} | {"warmer.lock"}
    assert (lock["source"], lock["revision"]) == (REPOSITORY, COMMIT)
    assert lock["accepted"].endswith("by --accept-licence")
    assert AutoModel.from_pretrained(folder, local_files_only=True).config.hidden_size == 32
    before = len(hub.requests)
    assert "is there" in command("fetch", REPOSITORY).stderr
    assert len(hub.requests) == before  # what is there needs no network


def test_a_broken_download_goes_on_in_the_next_run(command: Command, hub: FileServer, settings: Settings) -> None:
    name = next(name for name in hub.files if name.endswith("00001-of-00003.safetensors"))
    hub.cut_after = [PIECE] + [0] * 10
    slow = command.start("fetch", REPOSITORY, "--accept-licence")
    part = settings.models_dir / "fetched" / ".tiny--model.part" / f"{Path(name).name}.part"
    while not part.is_file() or part.stat().st_size < PIECE:
        assert slow.poll() is None
    slow.kill()
    slow.communicate()
    assert not fetched_folder(settings, REPOSITORY).exists()
    hub.cut_after, before = [], hub.served[name]
    command("fetch", REPOSITORY, "--accept-licence")
    assert hub.served[name] - before == len(hub.files[name]) - PIECE
    command("verify", REPOSITORY)


def test_a_file_that_the_hub_sends_wrong_is_refused(command: Command, hub: FileServer, settings: Settings) -> None:
    name = next(name for name in hub.files if name.endswith(".safetensors"))
    told = hub.files[name]
    hub.etag = "W/weak"
    flipped = told[:5000] + bytes([told[5000] ^ 1]) + told[5001:]
    hub.files[name] = flipped
    hub.sums[name] = told
    stderr = command("fetch", REPOSITORY, "--accept-licence", code=1).stderr
    assert "has sha256" in stderr
    assert "is expected; it was removed" in stderr
    assert not fetched_folder(settings, REPOSITORY).exists()


def test_a_gated_model_says_what_to_do_and_takes_a_token(
    command: Command, server: FileServer, checkpoint: Path
) -> None:
    server.add_repository("meta-llama/Llama-3.1-8B-Instruct", checkpoint)
    server.gated = True
    fetch = ("fetch", "llama-3.1-8b-instruct", "--revision", "main")
    refused = command(*fetch, code=1).stderr
    assert "Llama 3.1 Community License" in refused
    assert "run this again with --accept-licence" in refused
    assert not server.requests  # no licence, no network
    gated = command(*fetch, "--accept-licence", code=1).stderr
    assert "accept its licence on its page" in gated
    assert "export HF_TOKEN=" in gated
    command.environment["MY_TOKEN"] = "hf_abc"
    command(*fetch, "--accept-licence", "--token-env", "MY_TOKEN")
    assert server.requests[-1][1]["authorization"] == "Bearer hf_abc"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("tiny/nothing",), 4, "the hub has no model tiny/nothing"),
        ((REPOSITORY, "--revision", "v9"), 4, "no revision v9"),
        (("siglip2-base-patch16-224", "--from", REPOSITORY, "--revision", "v9"), 4, "no revision v9"),
        ((REPOSITORY, "--sha256", "0" * 64), 1, "--sha256 fits a model with one weight file"),
        ((REPOSITORY, "--files", "*Q4*"), 1, "no weights that match *Q4*"),
    ],
)
def test_what_the_hub_does_not_have(
    command: Command, hub: FileServer, arguments: tuple[str, ...], code: int, text: str
) -> None:
    assert text in command("fetch", *arguments, "--accept-licence", code=code).stderr


def test_one_of_many_gguf_files_is_chosen(command: Command, server: FileServer, settings: Settings) -> None:
    for quantisation in ("Q4_K_M", "Q8_0"):
        server.files[f"/tiny/gguf/resolve/{COMMIT}/model-{quantisation}.gguf"] = quantisation.encode()
    assert "choose one with --files" in command("fetch", "tiny/gguf", "--accept-licence", code=1).stderr
    command("fetch", "tiny/gguf", "--accept-licence", "--files", "*Q8_0*")
    assert [p.name for p in fetched_folder(settings, "tiny/gguf").glob("*.gguf")] == ["model-Q8_0.gguf"]


def test_a_hub_that_is_down_or_forbidden(command: Command) -> None:
    command.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert "the hub cannot be reached" in command("fetch", REPOSITORY, "--accept-licence", code=5).stderr
    command.environment["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE" in command("fetch", REPOSITORY, "--accept-licence", code=5).stderr
