"""Images that cannot be used fail alone and say why, those that are only unusual are understood; nothing is lost.

What is refused as a whole is in test_contract_refusals.py.
"""

from __future__ import annotations

import io
import struct
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from warmer import Client
from warmer.errors import InvalidArgument
from warmer.types import NewImage


@pytest.fixture
def name(client: Client) -> str:
    return client.collections.create(f"b-{uuid.uuid4().hex[:12]}").id


@pytest.fixture(scope="session")
def cat(gallery: Path) -> Image.Image:
    with Image.open(gallery / "chelsea.png") as image:
        return image.convert("RGB")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, rows: bytes, *, bits: int = 1) -> bytes:
    """A grey PNG around compressed rows; header and rows need not fit each other."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb(edge: int) -> bytes:
    """A PNG of edge x edge black pixels, small as a file."""
    return png(edge, edge, zlib.compress(bytes((edge // 8 + 1) * edge), 9))


def bad_files(cat: Image.Image) -> dict[str, tuple[bytes, str]]:
    """Contents that are no usable images, with the reason of each."""
    jpeg, whole_png = encoded(cat, "JPEG"), encoded(cat, "PNG")
    damaged = bytearray(whole_png)
    damaged[len(damaged) // 2] ^= 0xFF
    return {
        "empty.jpg": (b"", "EMPTY_FILE"),
        "text.jpg": (b"this is no image, whatever its name says", "NOT_AN_IMAGE"),
        "page.png": (b"<html><body>404 Not Found</body></html>", "NOT_AN_IMAGE"),
        "tiff.tif": (encoded(cat, "TIFF"), "NOT_AN_IMAGE"),
        "cut.jpg": (jpeg[: len(jpeg) // 3], "DAMAGED_IMAGE"),
        "header.jpg": (jpeg[:20], "DAMAGED_IMAGE"),
        "cut.png": (whole_png[: len(whole_png) // 2], "DAMAGED_IMAGE"),
        "flipped.png": (bytes(damaged), "DAMAGED_IMAGE"),
        "short.png": (png(64, 64, zlib.compress(bytes(100))), "DAMAGED_IMAGE"),
        "bomb.png": (bomb(30_000), "IMAGE_TOO_LARGE"),
        "heavy.jpg": (jpeg + bytes(33_554_432), "IMAGE_TOO_LARGE"),
    }


def test_bad_files_fail_alone_and_say_why(client: Client, name: str, cat: Image.Image) -> None:
    jpeg, bad = encoded(cat, "JPEG"), bad_files(cat)
    items = [NewImage("first", jpeg), *(NewImage(i, content) for i, (content, _) in bad.items())]
    began = time.monotonic()
    results = {r.image_id: r for r in client.collections.add_images(name, [*items, NewImage("last", jpeg + b" ")])}
    assert time.monotonic() - began < 60
    for image_id, (_, reason) in bad.items():
        error = results[image_id].error
        assert isinstance(error, InvalidArgument), image_id
        assert error.reason == reason, image_id
        assert error.message
        assert error.hint
    assert {i for i, r in results.items() if r.error is None} == {"first", "last"}
    assert client.collections.get(name).image_count == 2
    assert len(client.search(name, "a cat").hits) == 2


def test_a_bad_file_does_not_replace_what_is_stored(client: Client, name: str, cat: Image.Image) -> None:
    good, bad = encoded(cat, "PNG"), bad_files(cat)
    list(client.collections.add_images(name, [NewImage(image_id, good) for image_id in bad]))
    before = client.collections.get(name)
    again = client.collections.add_images(name, [NewImage(i, content) for i, (content, _) in bad.items()])
    assert {result.image_id: result.outcome for result in again} == dict.fromkeys(bad, "failed")
    assert client.collections.get(name) == before
    for image_id in bad:
        assert client.collections.image_bytes(name, image_id) == good
    assert len(client.search(name, "a cat", top_k=100).hits) == len(bad)


def test_a_bad_file_as_an_example_is_refused(client: Client, cat: Image.Image) -> None:
    for image_id, (content, reason) in bad_files(cat).items():
        asks: list[Callable[[], object]] = [
            lambda content=content: client.search("gallery", image=content),
            lambda content=content: client.sessions.create("gallery").search("a cat", image=content),
        ]
        for ask in asks:
            with pytest.raises(InvalidArgument) as caught:
                ask()
            assert caught.value.reason == reason, image_id
            assert caught.value.hint, image_id
    good, bad = client.embed_images([encoded(cat, "JPEG"), b"no image"])
    assert good.error is None
    assert bad.error is not None
    assert bad.error.reason == "NOT_AN_IMAGE"


def test_the_service_answers_while_it_refuses_bombs(client: Client, name: str) -> None:
    content = bomb(30_000)
    adding = client.collections.add_images(name, (NewImage(f"{n}", content) for n in range(50)))
    results = [next(adding)]
    assert client.search("gallery", "a rocket", timeout_s=10).hits[0].image_id == "rocket.jpg"
    results += adding
    assert [result.error and result.error.reason for result in results] == ["IMAGE_TOO_LARGE"] * 50
    assert client.collections.get(name).image_count == 0


def test_unusual_images_are_understood(client: Client, name: str, cat: Image.Image, gallery: Path) -> None:
    other = Image.new("RGB", cat.size)
    variants = {
        "cmyk": encoded(cat.convert("CMYK"), "JPEG", quality=95),
        "gif": encoded(cat, "GIF", save_all=True, append_images=[other, other]),
        "webp": encoded(cat, "WEBP"),
        "animated-webp": encoded(cat, "WEBP", save_all=True, append_images=[other]),
        "bmp": encoded(cat, "BMP"),
        "palette": encoded(cat.convert("P"), "PNG"),
        "alpha": encoded(cat.convert("RGBA"), "PNG"),
        "progressive": encoded(cat, "JPEG", progressive=True, quality=95),
        "wrong-name.txt": encoded(cat, "PNG"),
    }
    results = list(client.collections.add_images(name, [NewImage(i, c) for i, c in variants.items()]))
    assert [r.error for r in results] == [None] * len(variants)
    hits = client.search(name, image=gallery / "chelsea.png", top_k=20).hits
    assert {hit.image_id for hit in hits} == set(variants)
    for hit in hits:
        assert hit.similarity > 0.9, hit
    types = {image.id: image.media_type for image in client.collections.images(name)}
    assert (types["gif"], types["webp"], types["bmp"]) == ("image/gif", "image/webp", "image/bmp")
    assert (types["cmyk"], types["wrong-name.txt"]) == ("image/jpeg", "image/png")


def test_sixteen_bits_look_like_eight(client: Client, cat: Image.Image) -> None:
    grey = cat.convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert sixteen.mode == "I;16"
    one, two = client.embed_images([encoded(grey, "PNG"), encoded(sixteen, "PNG")])
    assert float(one.vector @ two.vector) > 0.999


def test_turned_images_are_seen_upright(client: Client, name: str, cat: Image.Image) -> None:
    """All eight EXIF orientations: what was stored turned gives the hits, the size and the thumbnail of the upright."""
    contents = {"upright": encoded(cat, "PNG")}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        contents[f"png-{orientation}"] = encoded(stored(cat, orientation), "PNG", exif=exif)
        contents[f"jpeg-{orientation}"] = encoded(stored(cat, orientation), "JPEG", exif=exif, quality=95)
    results = list(client.collections.add_images(name, [NewImage(i, c) for i, c in contents.items()]))
    assert [r.error for r in results] == [None] * len(contents)
    hits = client.search(name, image_id="upright", top_k=100).hits
    assert len(hits) == len(contents)
    for hit in hits:
        assert hit.similarity > (0.995 if hit.image_id.startswith("jpeg") else 0.9999), hit
    assert {(image.width, image.height) for image in client.collections.images(name)} == {cat.size}
    with Image.open(io.BytesIO(client.collections.image_bytes(name, "jpeg-6", max_edge=100))) as small:
        assert small.width > small.height
        assert not small.getexif().get(0x0112, 1) > 1
    upright = client.search("gallery", image=contents["upright"], top_k=5).hits
    turned = client.search("gallery", image=contents["png-8"], top_k=5).hits
    assert turned == upright


def stored(upright: Image.Image, orientation: int) -> Image.Image:
    """The pixels that a viewer who respects the orientation shows as `upright`."""
    undo = {6: 8, 8: 6}.get(orientation, orientation)  # each of the others undoes itself
    turned = upright.copy()
    turned.getexif()[0x0112] = undo
    return ImageOps.exif_transpose(turned)


def test_one_bad_file_among_hundreds(client: Client, name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(200):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n:03}.png")
    (tmp_path / "100.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "notes.txt").write_text("no image")
    report = client.collections.add_folder(name, tmp_path)
    assert (report.added, len(report.failures), report.skipped) == (199, 1, 1)
    (failure,) = report.failures
    assert (failure.image_id, failure.source) == ("100.png", "100.png")
    assert failure.error is not None
    assert failure.error.reason == "DAMAGED_IMAGE"
    assert client.collections.add_folder(name, tmp_path).unchanged == 199
    assert len(client.search(name, "noise", top_k=1000).hits) == 199


def test_an_id_with_a_slash_fails_alone(client: Client, name: str, cat: Image.Image) -> None:
    jpeg = encoded(cat, "JPEG")
    results = list(
        client.collections.add_images(name, [NewImage("a/b", jpeg), NewImage("", jpeg), NewImage("c", jpeg)])
    )
    reasons = {result.image_id: result.error.reason if result.error else None for result in results}
    assert reasons == {"a/b": "BAD_ID", "": "BAD_ID", "c": None}


def test_a_long_query_is_cut_and_said(client: Client) -> None:
    result = client.search("gallery", "a tabby cat " * 200)
    (truncation,) = result.truncations
    assert (truncation.max_tokens, truncation.tokens > 600) == (256, True)
    session = client.sessions.create("gallery")
    assert session.search("a tabby cat " * 200).truncations[0].max_tokens == 256
    assert session.refine(comment="asleep").truncations
