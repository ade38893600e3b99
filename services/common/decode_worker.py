"""What runs inside a decoding process: bytes of an image file in, a small RGB array or a reason out.

Nothing but PIL and numpy is imported, so that a worker starts fast and stays small. It raises no error of Warmer's for
the same reason: failures go back as plain tuples, which `decoding.py` turns into errors.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

# Loaded now, in the fork server, and not while the first image waits.
from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401  # isort: skip

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG that carries a second picture, as many phones write it
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")
_OTHER_FORMATS = (
    (b"%PDF", "a PDF"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML file"),
    (b"PK\x03\x04", "a zip archive"),
)
_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_AXES = (5, 6, 7, 8)
_WHITE = (255, 255, 255)

Mode = Literal["square", "max_edge"]


@dataclass(frozen=True)
class Pixels:
    """A decoded image: `array` is (H, W, 3) uint8 RGB, `width` and `height` are those of the upright original."""

    array: np.ndarray
    width: int
    height: int
    media_type: str


@dataclass(frozen=True)
class Failure:
    """Why an image could not be decoded: a reason for programs, a sentence and a hint for people."""

    reason: str
    message: str
    hint: str = ""


def prepare(max_pixels: int) -> None:
    """Sets PIL's own limits; runs once in every worker. PIL refuses twice MAX_IMAGE_PIXELS, and we refuse it once."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("ignore")  # PIL warns about odd metadata; what matters comes back as a Failure


def decode_chunk(files: list[bytes], mode: Mode, size: int, max_pixels: int) -> list[Pixels | Failure]:
    """Decodes several files; one result each, in order."""
    return [_guarded(data, mode, size, max_pixels) for data in files]


def thumbnail(data: bytes, max_edge: int, max_pixels: int, quality: int = 85) -> bytes | Failure:
    """The image as a JPEG whose longer edge is at most `max_edge` pixels; never made larger."""
    result = _guarded(data, "max_edge", max_edge, max_pixels)
    if isinstance(result, Failure):
        return result
    out = io.BytesIO()
    Image.fromarray(result.array).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _guarded(data: bytes, mode: Mode, size: int, max_pixels: int) -> Pixels | Failure:
    try:
        return _decode(data, mode, size, max_pixels)
    except Image.DecompressionBombError:
        return Failure("IMAGE_TOO_LARGE", f"the image has more than {max_pixels:,} pixels", "scale it down")
    except MemoryError:
        return Failure("IMAGE_TOO_LARGE", "the image does not fit into memory", "scale it down")
    except UnidentifiedImageError:
        return _unidentified(data)
    except Exception as error:
        # Decoders raise what they like (OSError, SyntaxError, ValueError, struct.error, ...) on damaged data.
        return Failure("DAMAGED_IMAGE", f"the image is damaged: {error}", "open it in a viewer and save it again")


def _unidentified(data: bytes) -> Failure:
    names = "JPEG, PNG, WebP, GIF or BMP"
    if data.startswith(_SIGNATURES) or (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return Failure("DAMAGED_IMAGE", "the image is damaged: its header cannot be read", "it may be cut short")
    kind = next((name for start, name in _OTHER_FORMATS if data.lstrip().startswith(start)), "")
    if data[4:8] == b"ftyp":
        kind = f"an {data[8:12].decode('ascii', 'replace').strip()} file (HEIC, AVIF or video)"
    what = f"the file is {kind}, not a {names} image" if kind else f"the file is not a {names} image"
    return Failure("NOT_AN_IMAGE", what, f"convert it to {names}")


def _decode(data: bytes, mode: Mode, size: int, max_pixels: int) -> Pixels:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:  # known from the header; nothing has been decoded yet
            raise Image.DecompressionBombError
        media_type = _MEDIA_TYPES[image.format or ""]
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            _draft(image, mode, size)
        image.load()
        orientation = _orientation(image)
        if orientation in _SWAPS_AXES:
            width, height = height, width
        small = _resized(to_rgb(image), mode, size)
        if orientation in _TURNS:
            small = small.transpose(_TURNS[orientation])
        return Pixels(np.asarray(small), width, height, media_type)


def _draft(image: JpegImagePlugin.JpegImageFile, mode: Mode, size: int) -> None:
    """Lets libjpeg decode at 1/2, 1/4 or 1/8, as long as that leaves at least twice the size that is wanted.

    At twice the size the resize still averages over pixels, and the result differs from a full decode by less than
    one grey level on average.
    """
    wanted = 2 * size
    if mode == "square":
        image.draft(None, (wanted, wanted))
    else:
        scale = max(1, max(image.size) // wanted)
        image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1  # damaged metadata is no reason to refuse a picture that can be seen


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode that the five formats have: transparency on white, 16 bits scaled to 8, CMYK converted."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey PNG; PIL's own conversion would clip everything above 255
        grey = np.asarray(image, dtype=np.uint32).clip(0, 65535)
        return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, _WHITE)
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return image.convert("RGB")


def _resized(image: Image.Image, mode: Mode, size: int) -> Image.Image:
    if mode == "square":
        target = (size, size)
    else:
        scale = min(1.0, size / max(image.size))
        target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
