"""`warmer up --profile paper` on small checkpoints of the same architectures: a whole session, and what goes wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from test_e2e_up import four_free_ports, home, up, warmer
from tiny import blip, llama, llava_next

__all__ = ["home"]  # the fixture


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "blip": blip.build_original(folder / "blip.pth"),
        "llava": llava_next.build(folder / "llava"),
        "llama": llama.build(folder / "llama"),
    }


def options(models: dict[str, Path], **other: str | Path) -> list[str]:
    chosen = {"blip_weights": models["blip"], "captioner_model": models["llava"], "rewriter_model": models["llama"]}
    chosen |= {name: Path(value) for name, value in other.items()}
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in chosen.items()]
    return ["--profile", "paper", "--port", str(four_free_ports()), *(word for pair in pairs for word in pair)]


def test_a_whole_session_on_the_papers_architectures(home: Path, gallery: Path, models: dict[str, Path]) -> None:
    with up(home, *options(models)) as environment:
        report = json.loads(warmer(environment, "index", str(gallery), "--json"))
        assert (report["added"], report["failures"]) == (report["total"], [])
        made = json.loads(
            warmer(environment, "session", "create", "--text", "a cat", "--strategy", "rewrite", "--json")
        )
        session = made["session"]["id"]
        round_ = json.loads(warmer(environment, "refine", session, "-r", "@1", "-m", "black and white", "--json"))
        assert round_["index"] == 1
        assert round_["degraded_stages"] == []
        assert round_["captions"]
        assert len(round_["hits"]) > 0
        again = json.loads(warmer(environment, "session", "rounds", session, "--json"))
        assert len(again) == 2


def test_hits_can_be_ranked_again(home: Path, gallery: Path, models: dict[str, Path]) -> None:
    with up(home, *options(models)) as environment:
        warmer(environment, "index", str(gallery), "--json")
        found = json.loads(warmer(environment, "search", "a cat", "-k", "5", "--rerank", "8", "--json"))
        order = [hit["score"] + hit["match"] for hit in found["hits"]]
        assert order == sorted(order, reverse=True)


def cut_off(model: Path, copy: Path) -> Path:
    """A copy of a checkpoint whose weights end too early."""
    copy.mkdir()
    for file in model.iterdir():
        content = file.read_bytes()
        (copy / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    return copy


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_captioner_that_cannot_be_loaded_is_named(
    home: Path, gallery: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    """The others serve; the reason is in what `up` prints, in the log, and in the degraded round."""
    broken = cut_off(models["llava"], tmp_path / "cut")
    with up(home, *options(models, captioner_model=broken)) as environment:
        assert "captioner does not serve" in (home / "up.log").read_text()
        assert "MODEL_DAMAGED" in (home / "logs" / "captioner.log").read_text()
        warmer(environment, "index", str(gallery), "--json")
        made = json.loads(
            warmer(environment, "session", "create", "--text", "a cat", "--strategy", "rewrite", "--json")
        )
        round_ = json.loads(warmer(environment, "refine", made["session"]["id"], "-r", "@1", "--json"))
        assert round_["degraded_stages"] == ["caption"]


@pytest.mark.parametrize("what", ["missing", "wrong"])
def test_an_embedder_that_cannot_be_loaded_ends_up(home: Path, models: dict[str, Path], what: str) -> None:
    weights = home / "nothing.pth" if what == "missing" else models["llama"]
    with pytest.raises(AssertionError) as caught, up(home, *options(models, blip_weights=weights)):
        pass
    said = str(caught.value)
    assert "embedder cannot serve" in said
    assert ("nothing.pth" if what == "missing" else "llama") in said


def test_a_model_server_that_cannot_be_reached(home: Path, models: dict[str, Path], monkeypatch) -> None:
    monkeypatch.setenv("WARMER_REWRITER_BACKEND", "openai")
    monkeypatch.setenv("WARMER_REWRITER_OPENAI_URL", f"http://127.0.0.1:{closed_port()}/v1")
    with up(home, *options(models)):
        said = (home / "up.log").read_text()
        assert "rewriter does not serve" in said
        assert "127.0.0.1" in said
