"""The BLIP encoder on tiny checkpoints: file formats, sizes, precisions, padding, and what it says of bad files."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from tiny import blip

from services.common.settings import Settings, load_settings
from services.embedder.encoders import blip_weights
from services.embedder.encoders.blip import BlipEncoder
from services.embedder.encoders.blip_weights import Heads
from services.embedder.encoders.matching import matcher_of
from warmer.errors import FailedPrecondition

TEXTS = ["a dog", "two dogs that play in the snow, and a cat on the mat", "red"]
PIXELS = list(np.random.default_rng(0).integers(0, 256, (5, blip.IMAGE_SIZE, blip.IMAGE_SIZE, 3), dtype=np.uint8))


def settings_of(weights: Path, **changes: object) -> Settings:
    return load_settings(
        **{"blip_weights": str(weights), "embedder_precision": "fp32", "device": "cpu", "threads": 1, **changes}
    )


def load(weights: Path, **changes: object) -> BlipEncoder:
    return BlipEncoder.load(settings_of(weights, **changes))


def refused(weights: Path, reason: str, **changes: object) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        load(weights, **changes)
    assert caught.value.reason == reason, caught.value
    assert caught.value.hint
    return caught.value.message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blip")


@pytest.fixture(scope="module")
def original(folder: Path) -> Path:
    return blip.build_original(folder / "tiny.pth")


@pytest.fixture(scope="module")
def encoder(original: Path) -> BlipEncoder:
    return load(original)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def assert_same(one: BlipEncoder, other: BlipEncoder) -> None:
    np.testing.assert_allclose(one.embed_images(PIXELS), other.embed_images(PIXELS), atol=1e-6)
    np.testing.assert_allclose(one.embed_texts(TEXTS).vectors, other.embed_texts(TEXTS).vectors, atol=1e-6)
    if one.can_rerank and other.can_rerank:
        np.testing.assert_allclose(one.match(TEXTS[1], PIXELS), other.match(TEXTS[1], PIXELS), atol=1e-5)


def test_facts(encoder: BlipEncoder) -> None:
    assert re.fullmatch(r"tiny\.pth@[0-9a-f]{12}", encoder.id)
    assert (encoder.backend, encoder.precision, encoder.device) == ("blip", "fp32", "cpu")
    assert (encoder.dimensions, encoder.max_tokens) == (blip.DIMENSIONS, 300)
    assert (encoder.resize.mode, encoder.resize.size) == ("square", blip.IMAGE_SIZE)
    assert matcher_of(encoder) is encoder
    vectors = encoder.embed_images(PIXELS)
    assert vectors.shape == (5, blip.DIMENSIONS) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder.match("a dog", PIXELS).dtype == np.float32
    assert (vectors @ vectors.T)[0, 1:].max() < 0.9, "the tiny model should tell images apart"


def test_agrees_with_transformers_own_forward(encoder: BlipEncoder) -> None:
    model = blip.model()
    scaled = (np.stack(PIXELS) / 255 - blip_mean()) / blip_std()
    pixel_values = torch.from_numpy(scaled).float().permute(0, 3, 1, 2)
    ids = torch.tensor([encoder._tokenizer.encode(TEXTS[0]).ids]).expand(len(PIXELS), -1)
    with torch.inference_mode():
        itm = model(input_ids=ids, pixel_values=pixel_values).itm_score[:, 1]
        itc = model(input_ids=ids[:1], pixel_values=pixel_values, use_itm_head=False).itm_score[:, 0]
    np.testing.assert_allclose(encoder.match(TEXTS[0], PIXELS), itm, atol=1e-5)
    cosines = encoder.embed_images(PIXELS) @ encoder.embed_texts(TEXTS[:1]).vectors[0]
    np.testing.assert_allclose(cosines, itc, atol=1e-5)


def blip_mean() -> np.ndarray:
    return np.array([0.48145466, 0.4578275, 0.40821073])


def blip_std() -> np.ndarray:
    return np.array([0.26862954, 0.26130258, 0.27577711])


def test_hugging_face_folder_gives_the_same(folder: Path, encoder: BlipEncoder) -> None:
    other = load(blip.build(folder / "hugging-face"))
    assert other.can_rerank and other.id != encoder.id
    assert_same(other, encoder)


@pytest.mark.parametrize(
    "how",
    [
        {"container": None},
        {"container": "state_dict", "prefix": "model."},
        {"container": "state_dict", "prefix": "module.blip."},
        {"momentum": True},
        {"more": {"epoch": 3, "config": {"image_size": 64}, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}},
    ],
    ids=["bare", "lightning", "lightning deeper", "momentum", "training state"],
)
def test_other_containers(tmp_path: Path, encoder: BlipEncoder, how: dict) -> None:
    assert_same(load(blip.build_original(tmp_path / "other.ckpt", **how)), encoder)


def test_the_old_format_of_torch_save(tmp_path: Path, encoder: BlipEncoder) -> None:
    torch.save(
        {"model": blip.original_state()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )  # cannot be mapped
    assert_same(load(tmp_path / "old.pth"), encoder)


def test_a_folder_that_holds_one_file(tmp_path: Path, encoder: BlipEncoder) -> None:
    blip.build_original(tmp_path / "weights.pth")
    (tmp_path / "LICENSE").write_text("BSD-3")
    assert_same(load(tmp_path), encoder)
    blip.build_original(tmp_path / "more.ckpt")
    assert "2 files" in refused(tmp_path, "MODEL_NOT_FOUND")


def test_a_fetched_model_is_found_by_name(tmp_path: Path, encoder: BlipEncoder) -> None:
    place = tmp_path / "fetched" / "chatir"
    place.mkdir(parents=True)
    blip.build_original(place / "chatir_weights.ckpt")
    found = load(Path("chatir"), models_dir=tmp_path)
    assert found.id.startswith("chatir_weights.ckpt@")
    assert_same(found, encoder)


@pytest.mark.parametrize("without", [r"^itm_head", r"crossattention|^itm_head", r"crossattention"])
def test_without_matching_head(tmp_path: Path, encoder: BlipEncoder, without: str) -> None:
    other = load(blip.build_original(tmp_path / "chatir_weights.ckpt", without=without))
    assert not other.can_rerank and matcher_of(other) is None
    assert_same(other, encoder)


def test_enc_token_where_it_is_asked_for(original: Path, encoder: BlipEncoder) -> None:
    other = load(original, blip_match_token="enc")
    assert_logits_with_first_token(encoder, 101)
    assert_logits_with_first_token(other, 30_523)
    np.testing.assert_array_equal(other.embed_texts(TEXTS).vectors, encoder.embed_texts(TEXTS).vectors)


def assert_logits_with_first_token(encoder: BlipEncoder, first: int) -> None:
    model = blip.model()
    ids = torch.tensor([encoder._tokenizer.encode(TEXTS[1]).ids])
    ids[:, 0] = first
    scaled = torch.from_numpy((np.stack(PIXELS) / 255 - blip_mean()) / blip_std()).float().permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = model(input_ids=ids.expand(len(PIXELS), -1), pixel_values=scaled).itm_score[:, 1]
    np.testing.assert_allclose(encoder.match(TEXTS[1], PIXELS), expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.08), ("fp16", 0.01)])
def test_half_precision(original: Path, encoder: BlipEncoder, precision: str, tolerance: float) -> None:
    half = load(original, embedder_precision=precision)
    assert half.precision == precision and half.id == encoder.id, "the vectors may be compared"
    assert half.embed_images(PIXELS).dtype == np.float32
    for one, other in (
        (half.embed_images(PIXELS), encoder.embed_images(PIXELS)),
        (half.embed_texts(TEXTS).vectors, encoder.embed_texts(TEXTS).vectors),
    ):
        assert (one * other).sum(1).min() >= 0.999
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(half.match(TEXTS[0], PIXELS), encoder.match(TEXTS[0], PIXELS), atol=tolerance)


def test_auto_precision_says_what_it_chose(original: Path) -> None:
    chosen = load(original, embedder_precision="auto").precision
    assert chosen == ("bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32")


def test_texts_of_any_company_and_order(encoder: BlipEncoder) -> None:
    together = encoder.embed_texts([*TEXTS, "a dog " * 90]).vectors
    alone = np.concatenate([encoder.embed_texts([text]).vectors for text in [*TEXTS, "a dog " * 90]])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    images = np.concatenate([encoder.embed_images([image]) for image in PIXELS])
    np.testing.assert_allclose(encoder.embed_images(PIXELS), images, atol=1e-5)
    logits = np.concatenate([encoder.match(TEXTS[1], [image]) for image in PIXELS])
    np.testing.assert_allclose(encoder.match(TEXTS[1], PIXELS), logits, atol=1e-5)


def test_long_texts_are_cut_and_counted(encoder: BlipEncoder) -> None:
    embedded = encoder.embed_texts(["dog " * 298, "dog " * 500, "dog " * 900, "a"])
    assert embedded.tokens == [300, 502, 902, 3]
    np.testing.assert_allclose(embedded.vectors[1], embedded.vectors[0], atol=1e-5)
    np.testing.assert_allclose(embedded.vectors[2], embedded.vectors[1], atol=1e-5)
    assert np.isfinite(encoder.match("dog " * 900, PIXELS[:1])).all()


def test_odd_texts(encoder: BlipEncoder) -> None:
    texts = ["", "\x00", "狗 в снегу 🐕", "[SEP] [ENC] [PAD]", "é" * 1000, "\u202egod a"]
    assert np.isfinite(encoder.embed_texts(texts).vectors).all()


@pytest.mark.parametrize("size", [32, 96])
def test_another_image_size(original: Path, folder: Path, encoder: BlipEncoder, size: int) -> None:
    other = load(original, blip_image_size=size)
    assert other.resize.size == size and other.id == f"{encoder.id}-{size}px"
    pixels = list(np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    # transformers interpolates anew at each call, in the same way.
    scaled = torch.from_numpy((np.stack(pixels) / 255 - blip_mean()) / blip_std()).float().permute(0, 3, 1, 2)
    model = blip.model()
    with torch.inference_mode():
        states = model.vision_model(pixel_values=scaled, interpolate_pos_encoding=True).last_hidden_state
        expected = torch.nn.functional.normalize(model.vision_proj(states[:, 0]), dim=-1)
    np.testing.assert_allclose(other.embed_images(pixels), expected, atol=1e-5)
    from_folder = load(blip.build(folder / f"hugging-face-{size}"), blip_image_size=size)
    np.testing.assert_allclose(from_folder.embed_images(pixels), expected, atol=1e-5)
    assert load(original, blip_image_size=blip.IMAGE_SIZE).id == encoder.id


def test_positions_keep_the_class_token_and_the_corners() -> None:
    positions = torch.randn(1, 1 + 16, 8)
    larger = blip_weights.resized_positions(positions, 6)
    assert larger.shape == (1, 37, 8)
    torch.testing.assert_close(larger[:, 0], positions[:, 0])
    assert blip_weights.resized_positions(positions, 4) is positions


def test_image_size_that_does_not_fit(original: Path) -> None:
    assert "multiple of 16" in refused(original, "BAD_SETTING", blip_image_size=100)


def test_nothing_set_and_nothing_there(tmp_path: Path) -> None:
    assert "WARMER_BLIP_WEIGHTS" in refused(Path(), "MODEL_NOT_FOUND", blip_weights=str(tmp_path / "none.pth"))
    refused(tmp_path, "MODEL_NOT_SET", blip_weights="")
    assert "neither" in refused(tmp_path, "MODEL_NOT_FOUND")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file(tmp_path: Path, original: Path, share: float) -> None:
    whole = original.read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole[: int(len(whole) * share)])
    assert str(cut) in refused(cut, "MODEL_DAMAGED")


@pytest.mark.parametrize("content", [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04"])
def test_no_weights_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.pth").write_bytes(content)
    refused(tmp_path / "page.pth", "MODEL_DAMAGED")


def test_truncated_folder(tmp_path: Path) -> None:
    blip.build(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(tmp_path, "MODEL_DAMAGED")


class _Payload:
    """What an attacker would put into a checkpoint."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/never-written"),)  # type: ignore[return-value]


@pytest.mark.parametrize("extra", [_Payload(), argparse.Namespace(lr=0.1), torch.nn.Linear(2, 2)])
def test_pickled_objects_are_refused(tmp_path: Path, extra: object) -> None:
    file = blip.build_original(tmp_path / "evil.pth", more={"hyper_parameters": extra})
    message = refused(file, "UNSAFE_CHECKPOINT")
    assert "pickled" in message and str(file) in message
    assert not Path("/tmp/never-written").exists()


def test_wrong_architecture(tmp_path: Path, original: Path) -> None:
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "linear.pth")
    assert "begin with weight" in refused(tmp_path / "linear.pth", "WRONG_ARCHITECTURE")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "WRONG_ARCHITECTURE")
    caption = blip.build_original(tmp_path / "model_base_caption.pth", without=r"^text_encoder|_proj")
    assert "text_encoder.embeddings" in refused(caption, "WRONG_ARCHITECTURE")
    holes = blip.build_original(tmp_path / "holes.pth", without=r"blocks\.1\.mlp|layer\.1\.output\.dense")
    message = refused(holes, "WRONG_ARCHITECTURE")
    assert "lacks 6 weights" in message and "text_encoder.encoder.layer.1.output.dense.bias" in message
    with pytest.raises(FailedPrecondition) as caught:
        BlipEncoder.load(settings_of(original), heads=Heads(vision=3))
    assert caught.value.reason == "WRONG_ARCHITECTURE"


def test_folder_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert "'clip'" in refused(tmp_path, "WRONG_ARCHITECTURE")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "MODEL_DAMAGED")
    folder = tmp_path / "tokens"
    blip.build(folder)
    (folder / "tokenizer.json").write_text("{}")
    refused(folder, "MODEL_DAMAGED")
