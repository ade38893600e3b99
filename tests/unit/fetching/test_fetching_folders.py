"""Fetching from folders and files of this machine: copied, linked, carried on without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fetching_kit import bring

from services.common.checkpoints import fetched_folder as where_services_look
from services.common.checkpoints import find, fingerprint
from services.common.fetched import fetched_folder
from services.common.settings import Settings, load_settings
from warmer.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, WarmerError


def test_services_look_where_fetch_puts(settings: Settings) -> None:
    for name in ("chatir", "openai/clip-vit-base-patch32"):
        assert where_services_look(settings, name) == fetched_folder(settings, name)


def test_a_folder_is_copied_and_loads(settings: Settings, checkpoint: Path) -> None:
    from transformers import AutoModel

    (checkpoint / "optimizer.bin").write_bytes(b"of the training")
    (checkpoint / "sub").mkdir()
    lock = bring(settings, "mine", str(checkpoint))
    folder = fetched_folder(settings, "mine")
    shutil.rmtree(checkpoint)
    assert AutoModel.from_pretrained(folder, local_files_only=True).config.hidden_size == 32
    names = [file.path for file in lock.files]
    assert "LICENSE" in names
    assert "model.safetensors.index.json" in names
    assert "optimizer.bin" not in names
    assert lock.accepted == ""  # who has the files needs no licence from us


def test_the_identity_of_a_model_does_not_depend_on_when_it_was_fetched(settings: Settings, checkpoint: Path) -> None:
    bring(settings, "org/one", str(checkpoint))
    found = find("org/one", settings, "WARMER_EMBEDDER_MODEL")
    assert found.path == fetched_folder(settings, "org/one")
    assert found.id == f"one@{fingerprint(checkpoint)}"


def test_a_fetched_folder_is_carried_to_a_machine_without_a_network(
    settings: Settings, checkpoint: Path, tmp_path: Path
) -> None:
    first = bring(settings, "mine", str(checkpoint))
    stick = tmp_path / "stick"
    shutil.copytree(fetched_folder(settings, "mine"), stick)
    there = load_settings(models_dir=tmp_path / "elsewhere")
    second = bring(there, "mine", str(stick))
    assert (second.source, second.files) == (first.source, first.files)
    damaged = next(stick.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(DataLoss) as caught:
        bring(there, "again", str(stick))  # the lock that came along tells
    assert caught.value.reason == "WRONG_SHA256"


def test_files_can_be_linked(settings: Settings, checkpoint: Path) -> None:
    bring(settings, "mine", str(checkpoint), link=True)
    for path in fetched_folder(settings, "mine").glob("*.safetensors"):
        assert path.is_symlink()
        assert path.resolve().parent == checkpoint


def test_a_single_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "chatir_weights.ckpt").write_bytes(b"weights")
    lock = bring(settings, "chatir", str(tmp_path / "chatir_weights.ckpt"))
    assert [file.path for file in lock.files] == ["chatir_weights.ckpt"]
    assert lock.kind == "embedder"
    assert bring(settings, "chatir") == lock  # it is there, so nobody needs to get it by hand


def test_a_model_that_only_people_can_get_says_how(settings: Settings) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bring(settings, "chatir")
    assert caught.value.reason == "BY_HAND"
    assert "github.com/levymsn/ChatIR" in caught.value.message
    assert "--from chatir_weights.ckpt" in caught.value.hint


@pytest.mark.parametrize("lost", ["config.json", "model-00002-of-00003.safetensors", "*.safetensors"])
def test_a_folder_that_is_not_whole(settings: Settings, checkpoint: Path, lost: str) -> None:
    for path in list(checkpoint.glob(lost)):
        path.unlink()
    with pytest.raises(WarmerError) as caught:
        bring(settings, "mine", str(checkpoint))
    assert caught.value.reason in ("MODEL_INCOMPLETE", "NO_WEIGHTS")
    assert not fetched_folder(settings, "mine").exists()


def test_what_is_there_is_not_replaced_silently(settings: Settings, checkpoint: Path, tmp_path: Path) -> None:
    bring(settings, "mine", str(checkpoint))
    bring(settings, "mine", str(checkpoint))  # the same again is no error
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(AlreadyExists) as caught:
        bring(settings, "mine", str(tmp_path / "other.pth"))
    assert "warmer models remove mine" in caught.value.hint
    victim = next(fetched_folder(settings, "mine").glob("*.safetensors"))
    victim.write_bytes(b"short")
    with pytest.raises(DataLoss) as damaged:
        bring(settings, "mine")
    assert damaged.value.reason == "MODEL_DAMAGED"


@pytest.mark.parametrize(
    ("name", "source", "options", "kind", "reason"),
    [
        ("unknown", "", {}, NotFound, "UNKNOWN_MODEL"),
        ("../up", "", {}, InvalidArgument, "BAD_NAME"),
        (".hidden", "", {}, InvalidArgument, "BAD_NAME"),
        ("mine", "no such/folder/", {}, InvalidArgument, "BAD_SOURCE"),
        ("mine", "CHECKPOINT", {"revision": "main"}, InvalidArgument, "BAD_OPTION"),
        ("mine", "CHECKPOINT", {"sha256": "xyz"}, InvalidArgument, "BAD_OPTION"),
        ("mine", "http://127.0.0.1:9/a.pth", {"link": True}, InvalidArgument, "BAD_OPTION"),
    ],
)
def test_what_cannot_be_asked_for(
    settings: Settings,
    checkpoint: Path,
    name: str,
    source: str,
    options: dict[str, object],
    kind: type[WarmerError],
    reason: str,
) -> None:
    with pytest.raises(kind) as caught:
        bring(settings, name, source.replace("CHECKPOINT", str(checkpoint)), **options)
    assert caught.value.reason == reason
    assert not fetched_folder(settings, name).is_relative_to(settings.models_dir) or not list(
        settings.models_dir.glob("fetched/[!.]*")
    )


def test_a_fetched_model_is_no_source(settings: Settings, checkpoint: Path) -> None:
    bring(settings, "mine", str(checkpoint))
    with pytest.raises(InvalidArgument) as caught:
        bring(settings, "copy", str(fetched_folder(settings, "mine")))
    assert caught.value.reason == "BAD_SOURCE"


def test_two_at_once(settings: Settings, checkpoint: Path) -> None:
    from services.fetching.staging import staging

    with staging(fetched_folder(settings, "mine")), pytest.raises(FailedPrecondition) as caught:
        bring(settings, "mine", str(checkpoint))
    assert caught.value.reason == "FETCH_RUNNING"
    bring(settings, "mine", str(checkpoint))
