"""The record alone: the counts of kept vectors and the rows agree, whatever happens to a collection."""

import hashlib
import random
from collections.abc import Callable

import numpy as np
import pytest
from kept_kit import check, unit

from services.common.settings import Settings
from services.embedder.collections.catalog import Catalog
from services.embedder.collections.collection import Collection
from services.embedder.collections.model import (
    Add,
    Facts,
    ForgetVectors,
    ImageCaption,
    ImageVector,
    Operation,
    Remove,
    Without,
)

FOLDER = "tenants/default/collections/photos"


@pytest.fixture
def opened(settings: Settings) -> Callable[[str], tuple[Catalog, Collection]]:
    def open(model: str) -> tuple[Catalog, Collection]:
        catalog = Catalog(settings.data_dir)
        catalog.open(model, 4)
        try:
            return catalog, catalog.get("photos")
        except Exception:
            return catalog, catalog.create("photos", "")

    return open


def test_counts_stay_right_under_random_changes(opened, settings: Settings) -> None:
    rng = random.Random(0)
    catalog, collection = opened("a@1")
    for step in range(400):
        operations = [_random(rng) for _ in range(rng.randint(1, 12))]
        written = collection.write(operations).result()
        assert len(written.outcomes) == len(operations)
        if step % 20 == 0:
            _check_counts(collection)
        if step % 100 == 99:
            catalog.close()
            check(settings.data_dir / FOLDER)
            catalog, collection = opened(rng.choice(["a@1", "b@1", "c@1"]))
            if not collection.matches:
                collection.write(
                    [ImageVector(i.image_id, i.sha256, collection._model, _vector(9)) for i in _all(collection)]
                ).result()
            assert collection.matches
            _check_counts(collection)
    catalog.close()
    check(settings.data_dir / FOLDER)


def _all(collection: Collection):
    return collection.images_after("", 1000, Without())


def _random(rng: random.Random) -> Operation:
    id, content = f"i{rng.randrange(30)}", b"%d" % rng.randrange(12)
    sha256 = hashlib.sha256(content).digest()
    match rng.randrange(10):
        case 0 | 1 | 2:
            return Add(id, sha256, content, "", Facts("image/png", 1, 1), np.frombuffer(_vector(1), "<f4"))
        case 3:
            return Remove(id)
        case 4 if rng.random() < 0.05:
            return ForgetVectors(rng.choice(["b@1", "c@1"]))
        case 5:
            return ImageCaption(id, sha256, "text", "cap@1", "", 1)
    return ImageVector(id, sha256, rng.choice(["a@1", "b@1", "c@1"]), _vector(rng.randrange(1, 9)))


def _vector(seed: int) -> bytes:
    return unit(np.random.default_rng(seed).normal(size=4))


def _check_counts(collection: Collection) -> None:
    assert collection.info == collection.record.info()
    if collection.index is not None:
        assert collection.index.view().count == collection.info.image_count
