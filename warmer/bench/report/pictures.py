"""Pictures of images as small data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

Images = Callable[[str], Path | None]
MAX_EDGE = 132
_QUALITY = 75


class Pictures:
    """Makes and keeps the picture of each image. `missing` holds the ids of images that have none."""

    def __init__(self, images: Images | None) -> None:
        self._images = images
        self._made: dict[str, str | None] = {}
        self.missing: set[str] = set()

    @property
    def available(self) -> bool:
        """Whether there are pictures at all."""
        return self._images is not None

    def uri(self, image_id: str) -> str | None:
        """A JPEG of at most `MAX_EDGE` px as a data URI; None for an image without a file that can be read."""
        if self._images is None:
            return None
        if image_id not in self._made:
            path = self._images(image_id)
            self._made[image_id] = None if path is None else _data_uri(path)
            if self._made[image_id] is None:
                self.missing.add(image_id)
        return self._made[image_id]


def png_uri(data: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _data_uri(path: Path) -> str | None:
    from PIL import Image, ImageOps

    target = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * MAX_EDGE, 2 * MAX_EDGE))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((MAX_EDGE, MAX_EDGE))
            small.save(target, "JPEG", quality=_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None  # the page says "no picture" in its place, and how many there are of these
    return f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode('ascii')}"
