"""The images of a dataset: those that `warmer index` would find in the same folder, under the same ids."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import cast

from warmer._folder import SUFFIXES, scan_folder
from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Dataset, Image, Problem
from warmer.names import path_from_image_id

_TRIED = 20_000  # names looked up to find out which folder holds the images


class ImageFolder:
    """What `warmer index ROOT` would index."""

    def __init__(self, root: Path) -> None:
        self.root = root
        scan = scan_folder(root)
        start = len(os.fspath(root / "x")) - 1
        self.images = tuple(Image(item.id, cast(Path, item.content)) for item in scan.images)
        self.problems = tuple(
            Problem(problems.BAD_IMAGE_NAME, f"{item.source}: {item.error.message if item.error else 'unknown'}")
            for item in scan.problems
        )
        self._by_name = {PurePath(os.fspath(image.path)[start:]).as_posix(): image for image in self.images}
        self._by_normal_form: dict[str, Image] | None = None

    def find(self, *names: str) -> Image | None:
        """The image of the first of these names (paths relative to the folder) that is there."""
        for name in names:
            found = self._by_name.get(name) or self._find_spelled(name)
            if found is not None:
                return found
        return None

    def _find_spelled(self, name: str) -> Image | None:
        # Names written on Windows, relative to the folder above, or with accents composed in another way.
        path = name.replace("\\", "/").removeprefix("./").removeprefix(f"{self.root.name}/")
        found = self._by_name.get(path)
        if found is None and not path.isascii():
            if self._by_normal_form is None:
                self._by_normal_form = {_normal(key): image for key, image in self._by_name.items()}
            found = self._by_normal_form.get(_normal(path))
        return found


def indexed_folder(dataset: Dataset) -> Path | None:
    """The folder that `warmer index` must be given so that the ids of its images are the dataset's."""
    if not dataset.images:
        return None
    first = dataset.images[0]
    return first.path.parents[len(path_from_image_id(first.image_id).parts) - 1]


def choose_root(candidates: Iterable[Path], names: Iterable[Sequence[str]]) -> Path | None:
    """The first folder that holds one of the images; if none does, the first that holds any image; or None.

    `names` has for each image the paths, relative to the folder, under which it may lie.
    """
    folders = list(dict.fromkeys(folder for folder in candidates if folder.is_dir()))
    tried = [name for image in islice(names, _TRIED) for name in image if _stays_inside(name)]
    for folder in folders:
        prefix = os.fspath(folder)
        if any(os.path.isfile(f"{prefix}/{name}") for name in tried):  # noqa: PTH113, it takes any name without raising
            return folder
    return next((folder for folder in folders if _has_images(folder)), None)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly below, by name."""
    return sorted(path for path in _visible(folder) if path.is_dir())


def _stays_inside(name: str) -> bool:
    path = PurePath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in _visible(folder))


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
