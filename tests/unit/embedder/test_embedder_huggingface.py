"""CLIP and SigLIP checkpoints: vectors, tokens and pixels are those of plain transformers code; refusals are clear.

The checkpoints are tiny and random, written as `save_pretrained` does, and loaded through `load_encoder`.
"""

import asyncio
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from embedder_kit import Api, picture, refused, running, settings_for
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import blip, clip, siglip
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CLIPImageProcessorPil,
    CLIPProcessor,
    Siglip2Config,
    SiglipImageProcessorPil,
)

from services.common.checkpoints import Checkpoint
from services.common.decoding import Decoded, Decoder, Resize
from services.common.settings import Settings, load_settings
from services.embedder.encoders import load_encoder
from services.embedder.encoders.blip import BlipEncoder
from services.embedder.encoders.huggingface import HuggingFaceEncoder
from services.embedder.encoders.preprocessing import Preprocessing
from warmer.errors import FailedPrecondition
from warmer.v1 import embedder_pb2

TEXTS = [
    "a black dog",
    "Two children play with a RED ball, on the beach!",
    "a",
    "Zürich: 猫 & 42 straße",
    "people sit at a table and eat in front of a lake " * 20,
]
SENTENCEPIECE = importlib.util.find_spec("sentencepiece") is not None
FAMILIES = [
    "clip",
    "siglip2",
    pytest.param(
        "siglip",
        marks=pytest.mark.skipif(not SENTENCEPIECE, reason="the package sentencepiece is not installed"),
    ),
]


@dataclass
class Made:
    """A checkpoint that was built, and its family."""

    family: str
    folder: Path

    def settings(self, **more: object) -> Settings:
        chosen = {"embedder_backend": "huggingface", "embedder_model": str(self.folder), "embedder_precision": "fp32"}
        return load_settings(**chosen | more)

    def load(self, **more: object) -> HuggingFaceEncoder:
        encoder = load_encoder(self.settings(**more))
        assert isinstance(encoder, HuggingFaceEncoder)
        return encoder


def made(family: str, folder: Path, seed: int = 0) -> Made:
    if family == "clip":
        return Made(family, clip.build(folder, seed=seed, shortest_edge=37))
    return Made(family, siglip.build(folder, seed=seed, version=2 if family == "siglip2" else 1))


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)


@pytest.fixture
def copy(checkpoint: Made, tmp_path: Path) -> Made:
    """A checkpoint to spoil."""
    shutil.copytree(checkpoint.folder, tmp_path / "model")
    return Made(checkpoint.family, tmp_path / "model")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(load_settings(decode_workers=1, decode_timeout_s=20))
    yield made
    asyncio.run(made.close())


@pytest.fixture(scope="session")
def photos(gallery: Path) -> list[Path]:
    """Real photographs, in RGB and grey, PNG and JPEG, of many sizes."""
    return sorted(gallery.iterdir())


async def decoded(decoder: Decoder, encoder: HuggingFaceEncoder, photos: list[Path]) -> list[np.ndarray]:
    results = await decoder.decode_many([photo.read_bytes() for photo in photos], encoder.resize)
    return [result.pixels for result in results if isinstance(result, Decoded)]


def plain_texts(checkpoint: Made, texts: list[str]) -> np.ndarray:
    """As transformers' documentation computes them for each family; SigLIP 2 was trained on lower case."""
    model = AutoModel.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    if checkpoint.family == "clip":
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    else:
        lower = [text.lower() for text in texts] if checkpoint.family == "siglip2" else texts
        inputs = tokenizer(lower, padding="max_length", max_length=64, truncation=True, return_tensors="pt")
        assert set(inputs) == {"input_ids"}
    with torch.no_grad():
        features = model.get_text_features(**inputs).pooler_output
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def plain_images(checkpoint: Made, photos: list[Path]) -> np.ndarray:
    model = AutoModel.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(checkpoint.folder, backend="pil")
    inputs = processor(images=[Image.open(photo).convert("RGB") for photo in photos], return_tensors="pt")
    with torch.no_grad():
        features = model.get_image_features(**inputs).pooler_output
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum(1).min())


def test_texts_are_those_of_plain_transformers(checkpoint: Made) -> None:
    encoder = checkpoint.load()
    embedded = encoder.embed_texts(TEXTS)
    expected = plain_texts(checkpoint, TEXTS)
    assert embedded.vectors.dtype == np.float32
    assert embedded.vectors.shape == (len(TEXTS), encoder.dimensions)
    assert np.abs(embedded.vectors - expected).max() < 1e-4
    assert least_cosine(expected[:1], expected[1:2]) < 0.9, "texts must differ, or equality says nothing"


async def test_images_are_those_of_plain_transformers(checkpoint: Made, decoder: Decoder, photos: list[Path]) -> None:
    encoder = checkpoint.load()
    small = [photo for photo in photos if photo.suffix == ".png"]  # big JPEGs are decoded at a fraction of their size
    vectors = encoder.embed_images(await decoded(decoder, encoder, small))
    expected = plain_images(checkpoint, small)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < 1e-4
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert least_cosine(expected[:1], expected[1:2]) < 0.99, "photos must differ, or equality says nothing"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
async def test_half_precision_is_close(checkpoint: Made, decoder: Decoder, photos: list[Path], precision: str) -> None:
    full, half = checkpoint.load(), checkpoint.load(embedder_precision=precision)
    assert (full.precision, full.device) == ("fp32", "cpu")
    assert (half.precision, half.device) == (precision, "cpu")
    pixels = await decoded(decoder, full, photos)
    for exact, rough in (
        (full.embed_texts(TEXTS).vectors, half.embed_texts(TEXTS).vectors),
        (full.embed_images(pixels), half.embed_images(pixels)),
    ):
        assert rough.dtype == np.float32
        assert np.abs(np.linalg.norm(rough, axis=1) - 1).max() < 1e-5
        assert least_cosine(exact, rough) > (0.999 if precision == "bf16" else 0.99999)


async def test_alone_and_in_company(checkpoint: Made, decoder: Decoder, photos: list[Path]) -> None:
    encoder = checkpoint.load()
    together = encoder.embed_texts(TEXTS)
    alone = [encoder.embed_texts([text]) for text in TEXTS]
    assert np.abs(together.vectors - np.concatenate([one.vectors for one in alone])).max() < 1e-5
    assert together.tokens == [one.tokens[0] for one in alone]
    pixels = await decoded(decoder, encoder, photos)
    one_by_one = np.concatenate([encoder.embed_images([image]) for image in pixels])
    assert np.abs(encoder.embed_images(pixels) - one_by_one).max() < 1e-5


def test_tokens_are_counted_before_they_are_cut(checkpoint: Made) -> None:
    encoder = checkpoint.load()
    assert encoder.max_tokens == (77 if checkpoint.family == "clip" else 64)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    special = 2 if checkpoint.family == "clip" else 1
    for text in ("a", "dog", "dog " * 300):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        embedded = encoder.embed_texts([text])
        assert embedded.tokens == [len(ids) + special]
    long, longer = encoder.embed_texts(["dog " * 300]), encoder.embed_texts(["dog " * 300 + "and a cat"])
    assert longer.tokens[0] > long.tokens[0] > encoder.max_tokens
    assert np.array_equal(long.vectors, longer.vectors)


def test_siglip_reads_lower_case(checkpoint: Made) -> None:
    encoder = checkpoint.load()
    upper, lower = encoder.embed_texts(["A Black DOG"]), encoder.embed_texts(["a black dog"])
    assert np.array_equal(upper.vectors, lower.vectors)  # CLIP's tokenizer lowers, too


def test_identity(checkpoint: Made, tmp_path: Path) -> None:
    encoder = checkpoint.load()
    assert encoder.backend == "huggingface"
    assert encoder.id.startswith(checkpoint.folder.name + "@")
    assert encoder.id == checkpoint.load(embedder_precision="bf16").id
    other = made(checkpoint.family, tmp_path / checkpoint.folder.name, seed=1).load()
    assert other.id.split("@")[0] == encoder.id.split("@")[0]
    assert other.id != encoder.id
    assert encoder.dimensions == (24 if checkpoint.family == "clip" else 40)


PROCESSORS = {
    "CLIP, 224 px": CLIPImageProcessorPil(),
    "CLIP, 336 px": CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336),
    "CLIP, an odd rest": CLIPImageProcessorPil(size={"shortest_edge": 257}, crop_size=224),
    "CLIP, an odd size": CLIPImageProcessorPil(size={"shortest_edge": 225}, crop_size=225, resample=2),
    "squashed and then cropped to what it is": CLIPImageProcessorPil(size={"height": 240, "width": 240}, crop_size=240),
    "SigLIP, 224 px": SiglipImageProcessorPil(),
    "SigLIP 2, 256 px": SiglipImageProcessorPil(size={"height": 256, "width": 256}, resample=2),
    "SigLIP, 384 px, Lanczos": SiglipImageProcessorPil(size={"height": 384, "width": 384}, resample=1),
    "not rescaled": CLIPImageProcessorPil(do_rescale=False),
    "not normalised": CLIPImageProcessorPil(do_normalize=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
async def test_pixels_are_those_of_the_image_processor(
    name: str, tmp_path: Path, decoder: Decoder, photos: list[Path]
) -> None:
    PROCESSORS[name].save_pretrained(tmp_path)
    preprocessing = Preprocessing.of(Checkpoint("m", str(tmp_path), tmp_path))
    contents = [photo.read_bytes() for photo in photos]
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    results = await decoder.decode_many(contents, preprocessing.resize)
    compared = 0
    for photo, content, result in zip(photos, contents, results, strict=True):
        assert isinstance(result, Decoded)
        image = Image.open(io.BytesIO(content))
        if photo.suffix == ".jpg" and min(image.size) >= 4 * preprocessing.resize.edge:
            continue  # decoded at a fraction of its size; see test_big_jpegs
        expected = processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"]
        got = preprocessing.tensor([result.pixels], torch.device("cpu"), torch.float32).numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() < 1e-5 * max(1.0, np.abs(expected).max()), photo.name
        compared += 1
    assert compared >= 18


async def test_big_jpegs_differ_little(tmp_path: Path, decoder: Decoder, photos: list[Path]) -> None:
    """They are decoded at 1/2, 1/4 or 1/8, which saves most of the time; under one grey level is left on average."""
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    preprocessing = Preprocessing.of(Checkpoint("m", str(tmp_path), tmp_path))
    processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    for photo in [photo for photo in photos if photo.name in ("china.jpg", "retina.jpg", "hubble_deep_field.jpg")]:
        big = Image.open(photo).convert("RGB").resize((2503, 1877), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        big.save(content, "JPEG", quality=92)
        result = await decoder.decode(content.getvalue(), preprocessing.resize)
        expected = processor(images=Image.open(content), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        assert np.abs(result.pixels.astype(int) - expected).mean() < 1, photo.name


def test_both_layouts_of_the_processor_are_read(copy: Made) -> None:
    """transformers 5 writes processor_config.json, with the image processor inside; the hub has the older file."""
    before = copy.load()
    tokenizer = AutoTokenizer.from_pretrained(copy.folder)
    image_processor = AutoImageProcessor.from_pretrained(copy.folder, backend="pil")
    (copy.folder / "preprocessor_config.json").unlink()
    CLIPProcessor(image_processor, tokenizer).save_pretrained(copy.folder)
    assert not (copy.folder / "preprocessor_config.json").exists()
    assert copy.load().resize == before.resize


def test_the_oldest_layout_of_the_processor_is_read(tmp_path: Path) -> None:
    """As openai/clip-vit-base-patch32 has it on the hub: numbers for sizes, and a feature extractor."""
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    flags = {"do_center_crop": True, "do_normalize": True, "do_resize": True}
    config = {"crop_size": 224, "size": 224, "resample": 3, "image_mean": mean, "image_std": deviation, **flags}
    config["feature_extractor_type"] = "CLIPFeatureExtractor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    preprocessing = Preprocessing.of(Checkpoint("m", str(tmp_path), tmp_path))
    assert preprocessing.resize == Resize("crop", 224, "bicubic", 224)
    assert (preprocessing.mean, preprocessing.factor) == (tuple(mean), pytest.approx(1 / 255))


def test_a_blip_checkpoint_has_an_encoder_of_its_own(tmp_path: Path) -> None:
    folder = blip.build(tmp_path / "blip")
    assert isinstance(load_encoder(Made("blip", folder).settings()), BlipEncoder)


HUB = """
import sys
from services.common.settings import load_settings
from services.embedder.encoders import load_encoder
chosen = dict(embedder_backend="huggingface", embedder_model="someone/tiny-clip", embedder_precision="fp32")
encoder = load_encoder(load_settings(allow_hub=True, **chosen))
print(encoder.id, encoder.embed_texts(["a black dog"]).vectors.shape)
try:
    load_encoder(load_settings(allow_hub=False, **chosen))
except Exception as error:
    print(error.reason)
"""


def test_a_hub_id_where_the_hub_is_allowed(tmp_path: Path) -> None:
    """The hub's own cache stands for the hub: a folder in its layout, and no network."""
    commit = "0" * 40
    repository = tmp_path / "models--someone--tiny-clip"
    clip.build(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-2:] == ["someone/tiny-clip (1, 24)", "MODEL_NOT_FOUND"]


def test_compact_needs_neither_torch_nor_transformers_to_start() -> None:
    code = "import services.embedder.service, sys; print({'torch', 'transformers'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def refusal(checkpoint: Made, **more: object) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        load_encoder(checkpoint.settings(**more))
    assert str(checkpoint.folder) in caught.value.message or more
    return caught.value


def test_a_missing_image_processor(copy: Made) -> None:
    (copy.folder / "preprocessor_config.json").unlink()
    error = refusal(copy)
    assert error.reason == "MODEL_DAMAGED"
    assert "image processor" in error.message


def test_a_missing_tokenizer(copy: Made) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json", "spiece.model"):
        (copy.folder / file).unlink(missing_ok=True)
    error = refusal(copy)
    assert error.reason == "MODEL_DAMAGED"
    assert "has a tokenizer" in error.message


def test_a_tokenizer_that_needs_a_package(copy: Made) -> None:
    (copy.folder / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    (copy.folder / "spiece.model").unlink(missing_ok=True)
    error = refusal(copy)
    assert error.reason == ("MODEL_DAMAGED" if SENTENCEPIECE else "PACKAGE_NOT_INSTALLED")
    assert "tokenizer" in error.message


def test_a_tokenizer_of_another_model(copy: Made) -> None:
    config = json.loads((copy.folder / "config.json").read_text())
    tensors = load_file(copy.folder / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = tensors[name].repeat(3, 1)
    config["text_config"]["vocab_size"] *= 3
    save_file(tensors, copy.folder / "model.safetensors", {"format": "pt"})
    (copy.folder / "config.json").write_text(json.dumps(config))
    error = refusal(copy)
    assert error.reason == "MODEL_DAMAGED"
    assert "tokenizer" in error.message


def test_damaged_weights(copy: Made) -> None:
    weights = copy.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refusal(copy).reason == "MODEL_DAMAGED"
    weights.write_bytes(b"")
    assert refusal(copy).reason == "MODEL_DAMAGED"
    weights.unlink()
    assert refusal(copy).reason == "MODEL_DAMAGED"


def test_weights_that_are_missing(copy: Made) -> None:
    weights = copy.folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(weights).items() if not name.startswith("text_model.")}
    save_file(tensors, weights, {"format": "pt"})
    error = refusal(copy)
    assert error.reason == "WRONG_ARCHITECTURE"
    assert "text_model." in error.message


def test_images_of_another_size(copy: Made) -> None:
    SiglipImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(copy.folder)
    error = refusal(copy)
    assert error.reason == "WRONG_ARCHITECTURE"
    assert "32" in error.message and "64" in error.message


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(do_center_crop=False),
        CLIPImageProcessorPil(do_resize=False),
        CLIPImageProcessorPil(size={"shortest_edge": 200}, crop_size=224),
        CLIPImageProcessorPil(crop_size={"height": 224, "width": 200}),
        SiglipImageProcessorPil(size={"height": 224, "width": 200}),
    ],
)
def test_preprocessing_that_is_not_supported(processor: object, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    with pytest.raises(FailedPrecondition, match="prepared") as caught:
        Preprocessing.of(Checkpoint("m", str(tmp_path), tmp_path))
    assert caught.value.reason == "WRONG_ARCHITECTURE"


@pytest.mark.parametrize("config", [BertConfig(), Siglip2Config()], ids=["bert", "naflex"])
def test_another_architecture(config: BertConfig | Siglip2Config, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    error = refusal(Made("", tmp_path))
    assert error.reason == "WRONG_ARCHITECTURE"
    assert all(name in error.hint for name in ("clip", "siglip", "blip"))


def test_an_architecture_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    assert refusal(Made("", tmp_path)).reason == "WRONG_ARCHITECTURE"
    (tmp_path / "config.json").write_text("{}")
    assert refusal(Made("", tmp_path)).reason == "WRONG_ARCHITECTURE"
    (tmp_path / "config.json").write_text("{")
    assert refusal(Made("", tmp_path)).reason == "MODEL_DAMAGED"


def test_no_model_or_none_of_that_name(tmp_path: Path) -> None:
    nothing = Made("", tmp_path / "nothing")
    assert refusal(nothing).reason == "MODEL_NOT_FOUND"
    assert refusal(nothing, embedder_model="").reason == "MODEL_NOT_SET"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
async def test_over_grpc(checkpoint: Made, folder: Path, photos: list[Path], precision: str) -> None:
    encoder = checkpoint.load(embedder_precision=precision)
    async with running(settings_for(folder), encoder) as api:
        made = await api.create()
        assert (made.model, made.dimensions) == (encoder.id, encoder.dimensions)
        results = await api.results((photo.stem, photo.read_bytes()) for photo in photos)
        assert all(not result.status.code for result in results)
        query = embedder_pb2.EmbedImagesRequest(images=[photos[0].read_bytes()])
        found = (await api.stub.EmbedImages(query)).embeddings[0]
        hits = (await search_by_image(api, photos[0])).hits
        assert hits[0].image_id == photos[0].stem
        assert hits[0].score == pytest.approx(1.0, abs=1e-3)
        assert len(found.vector) == 4 * encoder.dimensions
        assert len(await api.ids("a black dog", top_k=5)) == 5
        text = await api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=TEXTS))
        rows = np.frombuffer(text.vectors, "<f4").reshape(len(TEXTS), -1)
        assert least_cosine(rows, encoder.embed_texts(TEXTS).vectors) > 0.9999


async def search_by_image(api: Api, photo: Path) -> embedder_pb2.SearchResponse:
    from warmer.v1 import common_pb2

    return await api.search(common_pb2.QueryTerm(image=photo.read_bytes()), top_k=3)


async def test_a_collection_of_another_model_is_not_searched(folder: Path, tmp_path: Path) -> None:
    settings = settings_for(folder)
    first, second = made("clip", tmp_path / "clip-one").load(), made("siglip2", tmp_path / "siglip-two").load()
    items = [(colour, picture(colour)) for colour in ("red", "green", "blue")]
    async with running(settings, first) as api:
        await api.create()
        await api.add(items)
    async with running(settings, second) as api:
        for call in (api.search("a dog"), api.add(items)):
            async with refused("MODEL_MISMATCH", FailedPrecondition) as seen:
                await call
            assert seen[0].metadata == {"collection_model": first.id, "server_model": second.id}
            assert first.id in seen[0].message and second.id in seen[0].message
    async with running(settings, first) as api:
        assert len(await api.ids("a dog")) == 3
