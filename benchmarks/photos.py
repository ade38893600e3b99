"""The photos and captions that are measured with, and 12-megapixel photos made from the sample gallery."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from warmer.cli.gallery import write_gallery
from warmer.names import image_id_from_path
from warmer.types import NewImage

_COLOUR = ("astronaut.png", "chelsea.png", "china.jpg", "coffee.png", "flower.jpg", "rocket.jpg")
_LARGE = (4000, 3000)
_TILE = 512


@dataclass(frozen=True)
class Photo:
    """One photo with its human captions."""

    path: Path
    captions: tuple[str, ...]

    @property
    def id(self) -> str:
        """The image id that `warmer index` would give it."""
        return image_id_from_path(Path(self.path.name))

    def new_image(self, *, in_memory: bool = False) -> NewImage:
        """What the SDK adds: the path, or the bytes, which takes reading out of what is measured."""
        return NewImage(self.id, self.path.read_bytes() if in_memory else self.path, source=self.path.name)


def load_photos(folder: Path, limit: int | None = None) -> list[Photo]:
    """The first `limit` photos of a folder in the layout of Flickr30k, in the order of its caption file.

    Raises FileNotFoundError when the folder or a photo is missing, ValueError when the columns are others.
    """
    captions: dict[str, list[str]] = {}
    with (folder / "images_captions.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"image_name", "comment"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{file.name} has the columns {rows.fieldnames}, not image_name,comment")
        for row in rows:
            captions.setdefault(row["image_name"], []).append(row["comment"].strip())
    photos = [Photo(folder / "images" / name, tuple(texts)) for name, texts in list(captions.items())[:limit]]
    missing = [photo.path for photo in photos if not photo.path.is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} photos are missing, the first is {missing[0]}")
    return photos


def make_large_photos(folder: Path, count: int) -> list[Photo]:
    """`count` different JPEGs of 4000 x 3000 pixels and about 3 MB, as a phone writes them.

    They are sample photographs, cropped, mirrored and scaled up. Scaling up leaves no fine detail, and such a JPEG
    would be small and decode too fast; so noise of a sensor's strength is added, which brings the size to a phone's.
    """
    random = np.random.default_rng(7)
    sources = [path for path in write_gallery(folder / "gallery") if path.name in _COLOUR]
    tiles = [random.normal(0, 6, (_TILE, _TILE, 3)).astype(np.float32) for _ in range(4)]
    photos = []
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as opened:
            picture = ImageOps.fit(opened.convert("RGB"), (1000, 750))
        margin = int(random.integers(0, 100))
        picture = picture.crop((margin, margin, 1000 - margin // 2, 750 - margin // 2))
        if random.integers(2):
            picture = ImageOps.mirror(picture)
        path = folder / f"large{number:03d}.jpg"
        _noisy(picture.resize(_LARGE, Image.Resampling.BICUBIC), tiles[number % 4]).save(path, "JPEG", quality=92)
        photos.append(Photo(path, ()))
    return photos


def _noisy(picture: Image.Image, tile: np.ndarray) -> Image.Image:
    pixels = np.asarray(picture)
    repeats = (-(-pixels.shape[0] // _TILE), -(-pixels.shape[1] // _TILE), 1)
    noise = np.tile(tile, repeats)[: pixels.shape[0], : pixels.shape[1]]
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
