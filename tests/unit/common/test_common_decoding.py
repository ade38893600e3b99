"""Decoding: every format, mode and limit, on real images in real processes."""

import asyncio
import contextlib
import io
import os
import signal
import time

import numpy as np
import psutil
import pytest
from image_files import encoded, photo, png
from PIL import Image

from services.common import decode_worker
from services.common.decoding import Decoded, Decoder, Resize
from services.common.settings import load_settings
from warmer.errors import InvalidArgument, Unavailable

SQUARE = Resize("square", 32)
EDGE = Resize("max_edge", 64)
LIMIT = 100_000_000


BOMB = png(30_000, 30_000, b"\0" * 1_000_000)


@pytest.fixture(scope="module")
def decoder():
    made = Decoder(load_settings(decode_workers=2, decode_timeout_s=10))
    yield made
    asyncio.run(made.close())


async def reason(decoder, data, resize=SQUARE) -> str:
    with pytest.raises(InvalidArgument) as caught:
        await decoder.decode(data, resize)
    assert caught.value.message
    return caught.value.reason


@pytest.mark.parametrize(
    ("form", "media_type"),
    [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("BMP", "image/bmp")],
)
async def test_formats_by_content(decoder, form, media_type):
    decoded = await decoder.decode(encoded(photo(), form), SQUARE)
    assert (decoded.width, decoded.height, decoded.media_type) == (96, 64, media_type)
    assert (decoded.pixels.shape, decoded.pixels.dtype) == ((32, 32, 3), np.uint8)
    expected = np.asarray(photo().resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(decoded.pixels.astype(int) - expected).mean() < 8


async def test_a_phone_jpeg_with_two_pictures(decoder):
    data = encoded(photo(), "MPO", save_all=True, append_images=[photo().rotate(180)])
    decoded = await decoder.decode(data, SQUARE)
    assert decoded.media_type == "image/jpeg"
    assert decoded.pixels[0, 0, 0] < 60


async def test_square_equals_pil_exactly_where_nothing_is_lost(decoder):
    decoded = await decoder.decode(encoded(photo(), "PNG"), SQUARE)
    assert np.array_equal(decoded.pixels, np.asarray(photo().resize((32, 32), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize(("size", "expected"), [((200, 100), (32, 64)), ((100, 200), (64, 32)), ((40, 20), (20, 40))])
async def test_max_edge_keeps_the_aspect_and_never_enlarges(decoder, size, expected):
    decoded = await decoder.decode(encoded(photo(*size), "PNG"), EDGE)
    assert decoded.pixels.shape == (*expected, 3)
    assert (decoded.width, decoded.height) == size


async def test_extreme_aspect(decoder):
    assert (await decoder.decode(encoded(photo(2000, 1), "PNG"), EDGE)).pixels.shape == (1, 64, 3)
    assert (await decoder.decode(encoded(photo(3000, 2), "JPEG"), EDGE)).pixels.shape == (1, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_exif_orientation(decoder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), "JPEG", exif=exif, quality=95)
    decoded = await decoder.decode(data, Resize("max_edge", 96))
    expected = photo()
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL's numbers, by the EXIF standard
    if orientation in turns:
        expected = expected.transpose(Image.Transpose(turns[orientation]))
    assert (decoded.width, decoded.height) == expected.size
    assert np.abs(decoded.pixels.astype(int) - np.asarray(expected)).mean() < 4


async def test_damaged_exif_does_not_matter(decoder):
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert (await decoder.decode(data, SQUARE)).width == 96


async def test_cmyk(decoder):
    data = encoded(photo().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data  # whose CMYK is inverted
    decoded = await decoder.decode(data, SQUARE)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(photo().resize((32, 32)))).mean() < 8


async def test_sixteen_bit_grey_is_scaled_and_not_clipped(decoder):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, 0)
    data = encoded(Image.fromarray(ramp), "PNG")
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    decoded = await decoder.decode(data, Resize("max_edge", 256))
    assert np.abs(decoded.pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1


async def test_transparency_is_white(decoder):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("LA", (8, 8), (0, 128))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    for image, options, colour in (
        (clear, {}, (255, 255, 255)),
        (half, {}, (127, 127, 127)),
        (palette, {"transparency": 1}, (255, 255, 255)),
        (palette, {}, (0, 0, 255)),
        (Image.new("RGB", (8, 8), (9, 9, 9)), {"transparency": (9, 9, 9)}, (255, 255, 255)),
        (Image.new("1", (8, 8), 1), {}, (255, 255, 255)),
        (Image.new("L", (8, 8), 77), {}, (77, 77, 77)),
    ):
        decoded = await decoder.decode(encoded(image, "PNG", **options), SQUARE)
        assert np.abs(decoded.pixels[4, 4].astype(int) - colour).max() <= 1, image


async def test_an_animated_gif_gives_its_first_frame(decoder):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    decoded = await decoder.decode(data, SQUARE)
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]


async def test_a_big_jpeg_in_draft_mode_is_close_to_the_full_decode(decoder):
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).resize((2400, 1800), Image.Resampling.BICUBIC)
    data = encoded(noise, "JPEG", quality=90)
    decoded = await decoder.decode(data, Resize("square", 224))
    full = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    assert (decoded.width, decoded.height) == (2400, 1800)
    assert np.abs(decoded.pixels.astype(int) - np.asarray(full)).mean() < 1


async def test_what_is_no_image(decoder):
    assert await reason(decoder, b"") == "EMPTY_FILE"
    assert await reason(decoder, b"this is a text file") == "NOT_AN_IMAGE"
    assert await reason(decoder, b"%PDF-1.7 ...") == "NOT_AN_IMAGE"
    with pytest.raises(InvalidArgument, match=r"a TIFF image, not a JPEG, PNG, WebP, GIF or BMP image"):
        await decoder.decode(encoded(photo(), "TIFF"), SQUARE)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
async def test_damaged_files(decoder, form):
    data = encoded(photo(400, 300), form)
    assert await reason(decoder, data[: len(data) // 2]) == "DAMAGED_IMAGE"
    assert await reason(decoder, data[:16]) == "DAMAGED_IMAGE"


async def test_a_bomb_is_refused_from_its_header(decoder):
    await decoder.decode(encoded(photo(), "PNG"), SQUARE)
    begin = time.monotonic()
    assert await reason(decoder, BOMB) == "IMAGE_TOO_LARGE"
    assert time.monotonic() - begin < 1
    assert max(worker.memory_info().rss for worker in workers()) < 200_000_000


async def test_limits_of_bytes_and_pixels():
    decoder = Decoder(load_settings(decode_workers=1, max_image_bytes=2000, max_image_pixels=10_000))
    with pytest.raises(InvalidArgument, match="at most 2,000") as caught:
        await decoder.decode(b"x" * 2001, SQUARE)
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert await reason(decoder, png(101, 100, b"")) == "IMAGE_TOO_LARGE"
    assert (await decoder.decode(encoded(Image.new("L", (100, 100)), "PNG"), SQUARE)).width == 100
    await decoder.close()
    with pytest.raises(Unavailable):
        await decoder.decode(encoded(Image.new("L", (100, 100)), "PNG"), SQUARE)


async def test_many_at_once_keep_their_order_and_fail_alone(decoder):
    files = [encoded(Image.new("L", (8 + n, 8)), "PNG") for n in range(50)]
    files[7], files[21], files[33] = b"", b"text", BOMB
    results = await decoder.decode_many(files, SQUARE)
    reasons = {n: r.reason for n, r in enumerate(results) if not isinstance(r, Decoded)}
    assert reasons == {7: "EMPTY_FILE", 21: "NOT_AN_IMAGE", 33: "IMAGE_TOO_LARGE"}
    assert all(r.width == 8 + n for n, r in enumerate(results) if isinstance(r, Decoded))
    assert await decoder.decode_many([], SQUARE) == []


async def test_thumbnail(decoder):
    exif = Image.Exif()
    exif[0x0112] = 6
    small = Image.open(io.BytesIO(await decoder.thumbnail(encoded(photo(300, 200), "JPEG", exif=exif), 60)))
    assert (small.format, small.size, len(small.getexif())) == ("JPEG", (40, 60), 0)
    with pytest.raises(InvalidArgument) as caught:
        await decoder.thumbnail(b"text", 60)
    assert caught.value.reason == "NOT_AN_IMAGE"


def workers() -> list[psutil.Process]:
    """The decoding processes, which are children of the fork server."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended, or is a zombie
            if "forkserver" in " ".join(process.cmdline()) and process.ppid() != os.getpid():
                found.append(process)
    return found


def memory(worker: psutil.Process) -> int:
    try:
        return worker.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


async def slow_down(decoder) -> asyncio.Task:
    """A decode that takes seconds: a real PNG of 90 million pixels, just under the limit."""
    rows = b"".join(b"\0" + bytes(3 * 9000) for _ in range(9000))
    task = asyncio.create_task(decoder.decode(png(9000, 9000, rows), SQUARE))
    # Its 243 MB of pixels tell which worker has it; how busy workers are says little on a busy machine.
    while not any(memory(worker) > 150e6 for worker in workers()):
        await asyncio.sleep(0.01)
    return task


async def busiest() -> psutil.Process:
    return max(workers(), key=memory)


async def test_a_killed_worker_fails_one_item_only():
    decoder = Decoder(load_settings(decode_workers=2))
    good = encoded(photo(), "JPEG")
    await asyncio.gather(*(decoder.decode(good, SQUARE) for _ in range(8)))
    victim = await slow_down(decoder)
    others = [asyncio.create_task(decoder.decode(good, SQUARE)) for _ in range(20)]
    os.kill((await busiest()).pid, signal.SIGKILL)
    with pytest.raises(InvalidArgument) as caught:
        await victim
    assert caught.value.reason == "DECODER_CRASHED"
    assert len(await asyncio.gather(*others)) == 20
    assert (await decoder.decode(good, SQUARE)).width == 96
    await decoder.close()


async def test_workers_killed_while_idle_are_replaced():
    decoder = Decoder(load_settings(decode_workers=2))
    good = encoded(photo(), "JPEG")
    await decoder.decode(good, SQUARE)
    for worker in workers():
        os.kill(worker.pid, signal.SIGKILL)
    await asyncio.sleep(0.5)
    results = await asyncio.gather(*(decoder.decode(good, SQUARE) for _ in range(10)))
    assert [r.width for r in results] == [96] * 10
    await decoder.close()


async def test_a_slow_item_times_out_alone(monkeypatch):
    decoder = Decoder(load_settings(decode_workers=2, decode_timeout_s=0.4))
    rows = b"".join(b"\0" + bytes(3 * 9000) for _ in range(9000))
    files = [encoded(photo(), "JPEG")] * 5 + [png(9000, 9000, rows)] + [encoded(photo(), "JPEG")] * 5
    results = await decoder.decode_many(files, SQUARE)
    reasons = [r.reason for r in results if not isinstance(r, Decoded)]
    assert reasons == ["DECODE_TIMEOUT"]
    assert not isinstance(results[5], Decoded)
    await decoder.close()


async def test_a_caller_that_gives_up_costs_no_worker():
    decoder = Decoder(load_settings(decode_workers=1))
    await decoder.decode(encoded(photo(), "JPEG"), SQUARE)
    before = {worker.pid for worker in workers()}
    task = await slow_down(decoder)
    waiting = [asyncio.create_task(decoder.decode(encoded(photo(), "JPEG"), SQUARE)) for _ in range(5)]
    await asyncio.sleep(0)
    for pending in (task, *waiting[:4]):
        pending.cancel()
    assert (await waiting[4]).width == 96
    assert {worker.pid for worker in workers()} == before
    await decoder.close()
    assert workers() == []


def test_the_worker_imports_little():
    import subprocess
    import sys

    code = "import services.common.decode_worker, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "grpc", "warmer", "pydantic", "onnxruntime", "structlog", "asyncio"} & set(modules)
    assert decode_worker.FORMATS == ("JPEG", "PNG", "WEBP", "GIF", "BMP")
