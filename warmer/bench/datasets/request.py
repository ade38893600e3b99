"""What somebody asked to be loaded: the arguments of `load`, checked, and the files that they name."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warmer.bench.datasets.frames import PICKS
from warmer.bench.datasets.problems import bad_dataset

_MAX_SEED = 2**32 - 1  # of numpy's generator


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`warmer.bench.datasets.load`; `path` is a folder or a caption file."""

    path: Path
    captions: Path | None = None
    images: Path | None = None
    split: str | None = None
    frames: int | None = None
    pick: str = "even"
    seed: int = 0
    sample: float | None = None
    image_column: str = ""
    caption_column: str = ""
    _documents: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise bad_dataset(f"{str(self.path)!r} does not exist", "Give the folder of the dataset.")
        if self.path.is_file() and self.captions is not None:
            raise bad_dataset(
                "two caption files are named", "Give a folder as path, or leave captions out.", field="captions"
            )
        if self.given is not None and not self.given.is_file():
            raise bad_dataset(f"the caption file {str(self.given)!r} does not exist", field="captions")
        if self.images is not None and not self.images.is_dir():
            raise bad_dataset(f"{str(self.images)!r} is no folder", "Give the folder of the images.", field="images")
        self._check_numbers()

    def _check_numbers(self) -> None:
        sample = self.sample
        if sample is not None and (not sample > 0 or math.isinf(sample) or (sample > 1 and sample != int(sample))):
            raise bad_dataset(
                f"{sample} is no sample", "Give a share below 1 or a whole number of queries.", field="sample"
            )
        if not 0 <= self.seed <= _MAX_SEED:
            raise bad_dataset(f"{self.seed} is no seed", f"Give a number from 0 to {_MAX_SEED}.", field="seed")
        if self.frames is not None and self.frames < 1:
            raise bad_dataset(f"{self.frames} frames are too few", "Give at least 1.", field="frames")
        if self.pick not in PICKS:
            raise bad_dataset(f"{self.pick!r} is no way to pick frames", f"Use {', '.join(PICKS)}.", field="pick")

    @property
    def base(self) -> Path:
        """The folder in which files are looked for."""
        return self.path.parent if self.path.is_file() else self.path

    @property
    def given(self) -> Path | None:
        """The caption file, if one was named."""
        return self.path if self.path.is_file() else self.captions

    @property
    def title(self) -> str:
        """The folder's name, for the name of the dataset."""
        return self.base.resolve().name

    def find(self, patterns: Iterable[str], folders: Iterable[str] = (".",)) -> list[Path]:
        """Files under `base` that fit one of the patterns (case does not count), in the order of the patterns."""
        listed = [path for folder in folders for path in self._listed(folder)]
        found: dict[Path, None] = {}
        for pattern in patterns:
            fits = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match
            found.update({path: None for path in listed if fits(path.name) and path.is_file()})
        return list(found)

    def _listed(self, folder: str) -> list[Path]:
        place = self.base / folder
        if not place.is_dir():
            return []
        return sorted(path for path in place.iterdir() if not path.name.startswith("."))

    def document(self, path: Path) -> Any:
        """The JSON document; read once, however often it is asked for."""
        if path not in self._documents:
            self._documents[path] = read_json(path)
        return self._documents[path]

    def is_json(self, path: Path) -> bool:
        """Whether the file is named as JSON."""
        return path.suffix.casefold() == ".json"


def read_json(path: Path) -> Any:
    """A JSON document. Raises InvalidArgument (``BAD_DATASET``)."""
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise bad_dataset(
            f"{path.name} is no JSON document: {error.msg} in line {error.lineno}, column {error.colno}",
            "Is the download complete?",
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise bad_dataset(f"{path.name} is no JSON document: {error}", "Is the download complete?") from error
    except OSError as error:
        raise bad_dataset(f"{path.name} cannot be read: {error.strerror}") from error


def members(document: Any, path: Path, *names: str) -> list[list[Any]]:
    """The lists of these names in a JSON object. Raises InvalidArgument (``BAD_DATASET``) naming what is there."""
    found = sorted(document) if isinstance(document, dict) else []
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in names):
        there = f"an object with {', '.join(found) or 'nothing'}" if isinstance(document, dict) else "no object"
        raise bad_dataset(f"{path.name} is {there}; wanted: the lists {' and '.join(names)}")
    return [document[name] for name in names]
