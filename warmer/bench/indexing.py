"""Brings a dataset's images into a collection, as ``warmer index`` does, and says which are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from warmer.aio import Client
from warmer.bench.datasets.base import Dataset
from warmer.errors import AlreadyExists, NotFound
from warmer.types import AddResult, NewImage


@dataclass(frozen=True)
class Indexed:
    """What the collection holds after indexing.

    Attributes:
        image_ids: of all its images.
        strangers: number of its images that are not in the dataset: they stand in the way as any other.
        failures: images that could not be added.
    """

    image_ids: frozenset[str]
    strangers: int
    failures: tuple[AddResult, ...]


async def index(client: Client, collection: str, dataset: Dataset, show: Callable[[int, int], None]) -> Indexed:
    """Makes the collection if it is missing, and adds the images whose ids it lacks.

    Those that it has stay as they are. Raises what the embedder answers; a single image that fails is in the result.
    """
    await _ensure(client, collection)
    present = {image.id async for image in client.collections.images(collection)}
    missing = [image for image in dataset.images if image.image_id not in present]
    failures: list[AddResult] = []
    done = 0
    new = (NewImage(image.image_id, image.path, source=image.path.name) for image in missing)
    if missing:
        async for result in client.collections.add_images(collection, new):
            done += 1
            show(done, len(missing))
            if result.outcome == "failed":
                failures.append(result)
            else:
                present.add(result.image_id)
    strangers = len(present.difference(image.image_id for image in dataset.images))
    return Indexed(frozenset(present), strangers, tuple(failures))


async def _ensure(client: Client, collection: str) -> None:
    try:
        await client.collections.get(collection)
    except NotFound:
        try:
            await client.collections.create(collection)
        except AlreadyExists:
            return  # another command was faster, which is as good
