"""The resize that CLIP needs: shorter edge, then the middle; checked against what transformers does, pixel by pixel."""

import asyncio
import io

import numpy as np
import pytest
from image_files import encoded, photo
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

from services.common.decoding import Decoder, Resize
from services.common.settings import load_settings

LARGE = 65_000


@pytest.fixture(scope="module")
def decoder():
    made = Decoder(load_settings(decode_workers=1, decode_timeout_s=20))
    yield made
    asyncio.run(made.close())


def by_transformers(image: Image.Image, size: int, shortest_edge: int, resample: int = 3) -> np.ndarray:
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": shortest_edge}, crop_size=size, resample=resample, do_rescale=False, do_normalize=False
    )
    pixels = processor(images=image.convert("RGB"), return_tensors="np")["pixel_values"][0]
    return pixels.transpose(1, 2, 0)


@pytest.mark.parametrize(("size", "edge"), [(32, 0), (32, 37), (33, 64), (31, 31), (224, 257)])
@pytest.mark.parametrize("shape", [(101, 67), (67, 101), (64, 64), (97, 33), (20, 11), (500, 16)])
async def test_crop_equals_transformers(decoder, shape, size, edge):
    image = photo(*shape)
    decoded = await decoder.decode(encoded(image, "PNG"), Resize("crop", size, shortest_edge=edge))
    assert np.array_equal(decoded.pixels, by_transformers(image, size, edge or size))
    assert (decoded.width, decoded.height) == shape


@pytest.mark.parametrize("number", range(6))
async def test_every_filter_of_pil(decoder, number):
    name = Image.Resampling(number).name.lower()
    image = photo(101, 67)
    data = encoded(image, "PNG")
    decoded = await decoder.decode(data, Resize("crop", 32, name))
    assert np.array_equal(decoded.pixels, by_transformers(image, 32, 32, number))
    square = await decoder.decode(data, Resize("square", 32, name))
    assert np.array_equal(square.pixels, np.asarray(image.resize((32, 32), number)))


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_the_middle_is_that_of_the_upright_image(decoder, orientation):
    image = photo(101, 67)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "PNG", exif=exif)
    decoded = await decoder.decode(data, Resize("crop", 32, shortest_edge=37))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.abs(decoded.pixels.astype(int) - by_transformers(upright, 32, 37)).max() <= 1


@pytest.mark.parametrize("shape", [(LARGE, 1), (1, LARGE), (LARGE, 40)])
async def test_a_strip_is_not_resized_to_billions_of_pixels(decoder, shape):
    image = Image.new("RGB", shape, "red")
    image.paste("blue", (shape[0] // 4, shape[1] // 4, 3 * shape[0] // 4 + 1, 3 * shape[1] // 4 + 1))
    decoded = await decoder.decode(encoded(image, "PNG"), Resize("crop", 224))
    assert decoded.pixels.shape == (224, 224, 3)
    assert decoded.pixels[112, 112].tolist() == [0, 0, 255]


async def test_a_big_jpeg_in_draft_mode_keeps_its_middle(decoder):
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).resize((2401, 1803), Image.Resampling.BICUBIC)
    data = encoded(noise, "JPEG", quality=90)
    decoded = await decoder.decode(data, Resize("crop", 224))
    full = by_transformers(Image.open(io.BytesIO(data)), 224, 224)
    assert np.abs(decoded.pixels.astype(int) - full).mean() < 1
