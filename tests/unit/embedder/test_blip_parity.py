"""BLIP against the original implementation: a checkpoint that it saved, and what it computes from it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from services.common.decoding import Decoder
from services.common.settings import load_settings
from services.embedder.encoders.blip import BlipEncoder
from services.embedder.encoders.blip_weights import Heads

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
PARITY = DATA / "blip_parity"
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason="the parity data (../shared/data/blip_parity) is not here")


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((PARITY / "expected.json").read_text())


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def encoder(request: pytest.FixtureRequest, expected: dict[str, Any]) -> BlipEncoder:
    settings = load_settings(
        blip_weights=str(PARITY / "tiny_itm.pth"), embedder_precision="fp32", device="cpu", attention=request.param
    )
    heads = Heads(vision=expected["vision"]["heads"], text=expected["text"]["heads"])
    return BlipEncoder.load(settings, heads=heads)


@pytest_asyncio.fixture
async def pixels(encoder: BlipEncoder, expected: dict[str, Any]) -> AsyncIterator[list[np.ndarray]]:
    """The photos as the service's own decoder makes them."""
    decoder = Decoder(load_settings(decode_workers=1))
    try:
        files = [(DATA / name).read_bytes() for name in expected["images"]]
        yield [(await decoder.decode(file, encoder.resize)).pixels for file in files]
    finally:
        await decoder.close()


async def test_decoder_makes_the_pixels_of_the_original(pixels: list[np.ndarray], expected: dict[str, Any]) -> None:
    for array, name in zip(pixels, expected["images"], strict=True):
        photo = Image.open(DATA / name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(array, np.asarray(photo))


async def test_image_embeddings(encoder: BlipEncoder, pixels: list[np.ndarray], expected: dict[str, Any]) -> None:
    assert encoder.dimensions == expected["projection_dim"]
    np.testing.assert_allclose(encoder.embed_images(pixels), expected["image_embeddings"], atol=1e-4, rtol=0)


def test_text_embeddings(encoder: BlipEncoder, expected: dict[str, Any]) -> None:
    vectors = encoder.embed_texts(expected["texts"]).vectors
    np.testing.assert_allclose(vectors, expected["text_embeddings"], atol=1e-4, rtol=0)


async def test_matching_logits(encoder: BlipEncoder, pixels: list[np.ndarray], expected: dict[str, Any]) -> None:
    logits = [encoder.match(text, [image])[0] for text, image in zip(expected["texts"], pixels, strict=True)]
    of_a_match = [pair[1] for pair in expected["itm_logits_image_i_text_i"]]
    np.testing.assert_allclose(logits, of_a_match, atol=1e-4, rtol=0)
