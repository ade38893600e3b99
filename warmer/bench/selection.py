"""Which queries a run plays: those of a part of the images, and a sample of them by the seed.

Parts of the images are for tuning on one and reporting on another; the collection holds all images in any case. The
halves go by a hash of the image id (of the group's name for frames of one video, which so stay together), so an image
is in the same half whatever else is in the dataset, and whatever the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from warmer.bench.datasets.base import Dataset, Query
from warmer.errors import InvalidArgument

_HALVES = "warmer bench halves"
_NAMED = ("even", "odd", "half:0", "half:1")


def selected(dataset: Dataset, *, subset: str, queries: int | None, seed: int) -> list[Query]:
    """The queries to play, in the dataset's order. A query belongs to the part that its first target belongs to.

    A smaller sample of the same seed is part of a larger one. Raises InvalidArgument (``BAD_SUBSET``, ``NO_QUERIES``).
    """
    belongs = _part(dataset, subset)
    among = [query for query in dataset.queries if query.targets and belongs(query.targets[0])]
    if not among:
        raise InvalidArgument(
            f"{dataset.name} has no queries" + (f" for the images of {subset}" if subset else ""),
            reason="NO_QUERIES",
            hint="Look at the dataset's problems, or at the subset.",
        )
    if queries is None or queries >= len(among):
        return among
    order = sorted(range(len(among)), key=lambda index: _hash(f"{seed}", among[index].query_id))
    return [among[index] for index in sorted(order[:queries])]


def mates_of(groups: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """For each image of a group all images of its groups."""
    mates: dict[str, frozenset[str]] = {}
    for ids in groups.values():
        for id in ids:
            mates[id] = mates.get(id, frozenset()).union(ids)
    return mates


def half_of(name: str) -> int:
    """0 or 1 for an image id, or for the name of a group."""
    return _hash(_HALVES, name)[0] & 1


def fingerprint(dataset: Dataset, *, subset: str, captions: bool) -> str:
    """What the result depends on in the data, as 16 hex digits: two runs that differ in it cannot be one.

    `captions`: whether the captions of all images matter. Of a subset that is a file, its ids count, not its name.
    """
    asked = [[query.query_id, query.text, query.targets, query.others] for query in dataset.queries]
    listed = [] if subset in ("", *_NAMED) else sorted(_listed(subset))
    parts = [asked, sorted(dataset.groups.items()), listed, sorted(dataset.captions.items()) if captions else []]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _part(dataset: Dataset, subset: str) -> Callable[[str], bool]:
    """Tells of an image id whether it is in the part."""
    if not subset:
        return lambda _: True
    if subset in ("half:0", "half:1"):
        groups = {id: name for name, ids in sorted(dataset.groups.items()) for id in ids}
        wanted = int(subset[-1])
        return lambda id: half_of(groups.get(id, id)) == wanted
    if subset in ("even", "odd"):
        ids = sorted(image.image_id for image in dataset.images)
        return frozenset(ids[int(subset == "odd") :: 2]).__contains__
    return _listed(subset).__contains__


def _listed(file: str) -> frozenset[str]:
    """The image ids in a file. Raises InvalidArgument (``BAD_SUBSET``)."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(
            f"{file!r} is no part of the images, and no file that can be read: {error}",
            reason="BAD_SUBSET",
            field="images_subset",
            hint=f"Use {', '.join(_NAMED)}, or a text file with one image id on a line.",
        ) from error
    return frozenset(line.strip() for line in lines if line.strip())


def _hash(key: str, value: str) -> bytes:
    return hashlib.sha256(f"{key}\0{value}".encode("utf-8", "surrogateescape")).digest()
