"""What every dataset is read into: images, their captions, and queries with the images that are right for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """One image. `image_id` is the id in the collection, `path` its file."""

    image_id: str
    path: Path


@dataclass(frozen=True)
class Query:
    """One query: a human caption. `targets` are the images that are right for it, most often one.

    `others` are further human captions of the same target, from which a simulated user takes comments.
    """

    query_id: str
    text: str
    targets: tuple[str, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something in the data that cannot be used. `kind` is stable (`caption-without-image`), `detail` is for people."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Dataset:
    """A dataset as read: whatever is wrong with it is in `problems`, and never silently dropped.

    `captions` holds all human captions by image id, of images that are there. `groups` holds ids of images that belong
    together (frames of one video) by name; empty for datasets of single images.
    """

    name: str
    images: tuple[Image, ...]
    queries: tuple[Query, ...]
    captions: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
