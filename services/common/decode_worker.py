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

# A longer strip is cut to this many times its width before it is resized for a crop, which sees its middle alone:
# resized as a whole, one of 1 x 60,000 pixels would become one of billions.
_LONGEST_STRIP = 32

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


@dataclass(frozen=True)
class Resize:
    """How a decoded image is resized.

    `square` squashes it to `size` x `size` pixels. `max_edge` keeps the aspect and makes the longer edge at most `size`
    pixels, never larger than it is. `crop` keeps the aspect, makes the shorter edge `shortest_edge` pixels (0: `size`)
    and cuts `size` x `size` out of the middle, rounded as transformers' CLIP image processor does; `shortest_edge` is
    not below `size`. `resample` names PIL's filter.
    """

    mode: Literal["square", "max_edge", "crop"]
    size: int
    resample: Resample = "bicubic"
    shortest_edge: int = 0

    @property
    def edge(self) -> int:
        """The edge that a resize aims at, in pixels: the shorter one, or for `max_edge` the longer one."""
        return self.shortest_edge or self.size


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


def decode_chunk(files: list[bytes], resize: Resize, max_pixels: int) -> list[Pixels | Failure]:
    """Decodes several files; one result each, in order."""
    return [_guarded(data, resize, max_pixels) for data in files]


def thumbnail(data: bytes, max_edge: int, max_pixels: int, quality: int = 85) -> bytes | Failure:
    """The image as a JPEG whose longer edge is at most `max_edge` pixels; never made larger."""
    result = _guarded(data, Resize("max_edge", max_edge), max_pixels)
    if isinstance(result, Failure):
        return result
    out = io.BytesIO()
    Image.fromarray(result.array).save(out, "JPEG", quality=quality)
    return out.getvalue()


def _guarded(data: bytes, resize: Resize, max_pixels: int) -> Pixels | Failure:
    try:
        return _decode(data, resize, max_pixels)
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


def _decode(data: bytes, resize: Resize, max_pixels: int) -> Pixels:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:  # known from the header; nothing has been decoded yet
            raise Image.DecompressionBombError
        media_type = _MEDIA_TYPES[image.format or ""]
        target, box = _target(width, height, resize), (0.0, 0.0, float(width), float(height))
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            box = _draft(image, resize)
        image.load()
        orientation = _orientation(image)
        if orientation in _SWAPS_AXES:
            width, height = height, width
        small = _resized(to_rgb(image), box, target, resize)
        if orientation in _TURNS:
            small = small.transpose(_TURNS[orientation])
        if resize.mode == "crop":  # after the turn, since an odd rest is not halved evenly
            small = _middle(small, resize.size)
        return Pixels(np.asarray(small), width, height, media_type)


def _draft(image: JpegImagePlugin.JpegImageFile, resize: Resize) -> Box:
    """Lets libjpeg decode at 1/2, 1/4 or 1/8, as long as that leaves at least twice the size that is wanted.

    At twice the size the resize still averages over pixels, and the result differs from a full decode by less than
    one grey level on average. Returns where the picture lies: libjpeg fills up the last row and column.
    """
    width, height = image.size
    wanted = 2 * resize.edge
    if resize.mode != "max_edge":
        drafted = image.draft(None, (wanted, wanted))
    else:
        scale = max(1, max(image.size) // wanted)
        drafted = image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return drafted[1] if drafted else (0.0, 0.0, float(width), float(height))


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


def _target(width: int, height: int, resize: Resize) -> tuple[int, int]:
    """Width and height that an image is resized to, before any crop."""
    if resize.mode == "square":
        return resize.size, resize.size
    if resize.mode == "crop":
        width, height = min(width, _LONGEST_STRIP * height), min(height, _LONGEST_STRIP * width)
        edge, short = resize.edge, min(width, height)
        return (edge, int(edge * height / short)) if width <= height else (int(edge * width / short), edge)
    scale = min(1.0, resize.size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(image: Image.Image, box: Box, target: tuple[int, int], resize: Resize) -> Image.Image:
    if resize.mode == "crop":
        box = _shortened(box)
    if image.size == target and box == (0.0, 0.0, float(image.width), float(image.height)):
        return image
    return image.resize(target, Image.Resampling[resize.resample.upper()], box)


def _shortened(box: Box) -> Box:
    """The middle of a strip, as `_target` counts with it; any other box as it is."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    over_x, over_y = max(0.0, width - _LONGEST_STRIP * height), max(0.0, height - _LONGEST_STRIP * width)
    return left + over_x / 2, top + over_y / 2, right - over_x / 2, bottom - over_y / 2


def _middle(image: Image.Image, size: int) -> Image.Image:
    """The `size` x `size` pixels in the middle of an image; an odd rest leaves one more at the right and the bottom."""
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
