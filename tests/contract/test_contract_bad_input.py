"""Bad input: each is a documented status with a reason, the rest goes on, nothing stored is lost."""

from __future__ import annotations

import io
import struct
import time
import uuid
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from warmer import Client
from warmer.errors import FailedPrecondition, InvalidArgument, NotFound
from warmer.types import NewImage, Term


@pytest.fixture
def name(client: Client) -> str:
    return client.collections.create(f"b-{uuid.uuid4().hex[:12]}").id


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(edge: int) -> bytes:
    """A PNG of edge x edge black pixels, small as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", edge, edge, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((edge // 8 + 1) * edge), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def photo(gallery: Path) -> Image.Image:
    return Image.open(gallery / "chelsea.png").convert("RGB")


def test_bad_files_fail_alone_and_say_why(client: Client, name: str, gallery: Path) -> None:
    jpeg = encoded(photo(gallery), "JPEG")
    bad = {
        "empty.jpg": (b"", "EMPTY_FILE"),
        "text.jpg": (b"this is no image, whatever its name says", "NOT_AN_IMAGE"),
        "cut.jpg": (jpeg[: len(jpeg) // 3], "DAMAGED_IMAGE"),
        "bomb.png": (bomb(30_000), "IMAGE_TOO_LARGE"),
        "tiff.tif": (encoded(photo(gallery), "TIFF"), "NOT_AN_IMAGE"),
    }
    items = [NewImage("first", jpeg), *(NewImage(i, content) for i, (content, _) in bad.items())]
    began = time.monotonic()
    results = {r.image_id: r for r in client.collections.add_images(name, [*items, NewImage("last", jpeg + b" ")])}
    assert time.monotonic() - began < 30
    for image_id, (_, reason) in bad.items():
        error = results[image_id].error
        assert isinstance(error, InvalidArgument), image_id
        assert error.reason == reason
        assert error.message
        assert error.hint
    assert {i for i, r in results.items() if r.error is None} == {"first", "last"}
    assert client.collections.get(name).image_count == 2
    assert len(client.search(name, "a cat").hits) == 2


def test_unusual_images_are_understood(client: Client, name: str, gallery: Path) -> None:
    cat = photo(gallery)
    grey = np.asarray(cat.convert("L")).astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    variants = {
        "cmyk": encoded(cat.convert("CMYK"), "JPEG", quality=95),
        "sixteen": encoded(Image.fromarray(grey), "PNG"),
        "gif": encoded(cat, "GIF", save_all=True, append_images=[Image.new("RGB", cat.size)]),
        "webp": encoded(cat, "WEBP"),
        "bmp": encoded(cat, "BMP"),
        "palette": encoded(cat.convert("P"), "PNG"),
        "alpha": encoded(cat.convert("RGBA"), "PNG"),
        "turned": encoded(cat.rotate(90, expand=True), "JPEG", exif=exif, quality=95),
    }
    results = list(client.collections.add_images(name, [NewImage(i, c) for i, c in variants.items()]))
    assert [r.error for r in results] == [None] * len(variants)
    hits = client.search(name, image=gallery / "chelsea.png", top_k=20).hits
    floor = dict.fromkeys(variants, 0.9) | {"sixteen": 0.6}
    assert {hit.image_id for hit in hits} == set(variants)
    for hit in hits:
        assert hit.similarity > floor[hit.image_id], hit
    upright = client.collections.image(name, "turned")
    assert (upright.width, upright.height) == cat.size


def test_one_bad_file_among_hundreds(client: Client, name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(200):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n:03}.png")
    (tmp_path / "100.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "notes.txt").write_text("no image")
    report = client.collections.add_folder(name, tmp_path)
    assert (report.added, len(report.failures), report.skipped) == (199, 1, 1)
    assert report.failures[0].image_id == "100.png"
    assert client.collections.add_folder(name, tmp_path).unchanged == 199


@pytest.mark.parametrize("text", ["", "   \n\t"])
def test_empty_query(client: Client, text: str) -> None:
    for ask in (lambda: client.search("gallery", text), lambda: client.sessions.create("gallery").search(text)):
        with pytest.raises(InvalidArgument) as caught:
            ask()
        assert caught.value.reason == "EMPTY_QUERY"


def test_a_long_query_is_cut_and_said(client: Client) -> None:
    result = client.search("gallery", "a tabby cat " * 200)
    (truncation,) = result.truncations
    assert (truncation.max_tokens, truncation.tokens > 600) == (256, True)
    assert client.sessions.create("gallery").search("a tabby cat " * 200).truncations


@pytest.mark.parametrize("top_k", [10_001, 1_000_000])
def test_top_k_out_of_range(client: Client, top_k: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.search("gallery", "a cat", top_k=top_k)
    assert caught.value.reason == "BAD_TOP_K"
    assert "10,000" in str(caught.value)


def test_unknown_names(client: Client) -> None:
    asks = {
        "COLLECTION_NOT_FOUND": lambda: client.search("nowhere", "a cat"),
        "SESSION_NOT_FOUND": lambda: client.sessions.get("no-such-session"),
        "IMAGE_NOT_FOUND": lambda: client.collections.image("gallery", "no-such.png"),
    }
    for reason, ask in asks.items():
        with pytest.raises(NotFound) as caught:
            ask()
        assert caught.value.reason == reason
    with pytest.raises(NotFound) as caught:
        client.search("gallery", image_id="no-such.png")
    assert "no-such.png" in str(caught.value)
    with pytest.raises(NotFound):
        client.sessions.create("nowhere")


def test_an_id_with_a_slash(client: Client, name: str, gallery: Path) -> None:
    results = list(client.collections.add_images(name, [NewImage("a/b", gallery / "coffee.png")]))
    assert results[0].error is not None
    assert results[0].error.reason == "BAD_ID"


def test_a_vector_of_other_dimensions(client: Client) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.search("gallery", terms=[Term(vector=np.ones(7, np.float32))])
    assert caught.value.reason == "DIMENSION_MISMATCH"
    assert "256" in str(caught.value)


def test_feedback_that_does_not_fit(client: Client) -> None:
    session = client.sessions.create("gallery", page_size=3)
    with pytest.raises(FailedPrecondition) as caught:
        session.refine(comment="more")
    assert caught.value.reason == "NO_ROUND_YET"
    first = session.search("a cat")
    never = ({p.id for p in client.collections.images("gallery")} - {hit.image_id for hit in first.hits}).pop()
    with pytest.raises(InvalidArgument) as wrong:
        session.refine(relevant=[never])
    assert wrong.value.reason == "IMAGE_NOT_STREAMED"
    assert never in str(wrong.value)
    assert session.refresh().round_count == 1


def test_an_expired_session(client: Client) -> None:
    session = client.sessions.create("gallery", ttl_s=1)
    time.sleep(1.5)
    with pytest.raises(NotFound) as caught:
        session.search("a cat")
    assert caught.value.reason == "SESSION_NOT_FOUND"
