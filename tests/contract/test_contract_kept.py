"""Captions and vectors kept in a collection, through both clients and over both ways of running Warmer."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import Running
from typer.testing import CliRunner

from warmer import Client, aio
from warmer.cli import app
from warmer.errors import FailedPrecondition, InvalidArgument, NotFound, WarmerError
from warmer.types import ImageCaption, ImageVector, NewImage, VectorSet

OTHER = "other@1"
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "moon.png")


@pytest.fixture
def name(client: Client, gallery: Path) -> str:
    """A collection of four photos."""
    id = client.collections.create(f"k-{uuid.uuid4().hex[:12]}").id
    list(client.collections.add_images(id, [NewImage(photo, gallery / photo) for photo in PHOTOS]))
    return id


def caption(client: Client, name: str, id: str, text: str, **more: str) -> ImageCaption:
    sha256 = client.collections.image(name, id).sha256
    return ImageCaption(id, sha256, text, more.get("model", "cap@1"), more.get("prompt_version", ""), 3)


def vectors(client: Client, name: str, ids: Sequence[str], dimensions: int = 8) -> list[ImageVector]:
    made = []
    for seed, id in enumerate(ids):
        vector = np.random.default_rng(seed).normal(size=dimensions)
        unit = (vector / np.linalg.norm(vector)).astype(np.float32)
        made.append(ImageVector(id, client.collections.image(name, id).sha256, unit))
    return made


def test_kept_captions(client: Client, name: str) -> None:
    mine = caption(client, name, "coffee.png", "a cup, größer 日本")
    stale = ImageCaption("moon.png", "0" * 64, "another content", "cap@1")
    gone = ImageCaption("nobody", "0" * 64, "of nobody", "cap@1")
    before = client.collections.get(name)
    kept = client.collections.put_captions(name, [mine, stale, gone])
    assert (kept.stored_count, kept.stale_image_ids) == (1, ("moon.png", "nobody"))
    assert client.collections.captions(name, PHOTOS, model="cap@1") == (mine,)
    assert client.collections.captions(name, "coffee.png") == (mine,)
    assert client.collections.captions(name, PHOTOS, model="cap@1", prompt_version="p2") == ()
    assert client.collections.captions(name, []) == ()
    left = client.collections.images(name, without_captions_of="cap@1", page_size=1)
    assert [image.id for image in left] == ["chelsea.png", "moon.png", "rocket.jpg"]
    assert client.collections.get(name) == before
    client.collections.remove(name, "coffee.png")
    assert client.collections.captions(name, PHOTOS) == ()


def test_many_captions_are_sent_in_parts(client: Client, name: str) -> None:
    one = caption(client, name, "coffee.png", "a cup")
    assert client.collections.put_captions(name, [one] * 2500).stored_count == 2500
    assert client.collections.captions(name, ["coffee.png"] * 2500) == (one, one, one), "once for each part"


def test_kept_vectors(client: Client, name: str) -> None:
    made = vectors(client, name, PHOTOS)
    hits = client.search(name, "a cat").hits
    kept = client.collections.put_vectors(name, OTHER, made[:3])
    assert (kept.stored_count, kept.missing_count, kept.adopted, kept.stale_image_ids) == (3, 1, False, ())
    assert [image.id for image in client.collections.images(name, without_vectors_of=OTHER)] == ["moon.png"]
    assert client.collections.get(name).vector_sets == (VectorSet(OTHER, 8, 3),)
    assert client.collections.put_vectors(name, OTHER, made[3:]).missing_count == 0
    assert client.collections.put_vectors(name, OTHER).missing_count == 0
    assert list(client.collections.images(name, without_vectors_of=client.model().id)) == []
    assert client.search(name, "a cat").hits == hits, "nobody searches with them here"
    client.collections.delete_vectors(name, OTHER)
    assert client.collections.get(name).vector_sets == ()
    assert len(list(client.collections.images(name, without_vectors_of=OTHER))) == 4


REFUSALS: dict[str, tuple[Callable[[Client, str], object], type[WarmerError], str]] = {
    "empty caption": (
        lambda c, n: c.collections.put_captions(n, [caption(c, n, "moon.png", " ")]),
        InvalidArgument,
        "EMPTY_CAPTION",
    ),
    "long caption": (
        lambda c, n: c.collections.put_captions(n, [caption(c, n, "moon.png", "x" * 16_385)]),
        InvalidArgument,
        "CAPTION_TOO_LONG",
    ),
    "caption of no model": (
        lambda c, n: c.collections.put_captions(n, [caption(c, n, "moon.png", "x", model="")]),
        InvalidArgument,
        "BAD_MODEL",
    ),
    "caption of no content": (
        lambda c, n: c.collections.put_captions(n, [ImageCaption("moon.png", "what", "x", "cap@1")]),
        InvalidArgument,
        "BAD_SHA256",
    ),
    "caption of a bad id": (
        lambda c, n: c.collections.put_captions(n, [ImageCaption("a/b", "0" * 64, "x", "cap@1")]),
        InvalidArgument,
        "BAD_ID",
    ),
    "caption nowhere": (
        lambda c, n: c.collections.put_captions("nowhere", [ImageCaption("a", "0" * 64, "x", "cap@1")]),
        NotFound,
        "COLLECTION_NOT_FOUND",
    ),
    "captions nowhere": (
        lambda c, n: c.collections.captions("nowhere", ["a"]),
        NotFound,
        "COLLECTION_NOT_FOUND",
    ),
    "vector that is none": (
        lambda c, n: c.collections.put_vectors(n, OTHER, [ImageVector("moon.png", "0" * 64, np.zeros(3, np.float32))]),
        InvalidArgument,
        "BAD_VECTOR",
    ),
    "vector of two rows": (
        lambda c, n: c.collections.put_vectors(n, OTHER, [ImageVector("moon.png", "0" * 64, np.eye(2))]),
        InvalidArgument,
        "BAD_VECTOR",
    ),
    "vectors of two lengths": (
        lambda c, n: c.collections.put_vectors(
            n, OTHER, [*vectors(c, n, ["moon.png"]), *vectors(c, n, ["coffee.png"], 9)]
        ),
        InvalidArgument,
        "DIMENSION_MISMATCH",
    ),
    "vectors of another length than those before": (
        lambda c, n: [c.collections.put_vectors(n, OTHER, vectors(c, n, ["moon.png"], d)) for d in (8, 9)],
        FailedPrecondition,
        "DIMENSION_MISMATCH",
    ),
    "vectors of no model": (
        lambda c, n: c.collections.put_vectors(n, "", vectors(c, n, ["moon.png"])),
        InvalidArgument,
        "BAD_MODEL",
    ),
    "forgetting what is in use": (
        lambda c, n: c.collections.delete_vectors(n, c.model().id),
        FailedPrecondition,
        "VECTORS_IN_USE",
    ),
    "forgetting what is not there": (
        lambda c, n: c.collections.delete_vectors(n, "never@1"),
        NotFound,
        "VECTORS_NOT_FOUND",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refusals(client: Client, name: str, what: str) -> None:
    ask, kind, reason = REFUSALS[what]
    with pytest.raises(kind) as caught:
        ask(client, name)
    assert caught.value.reason == reason
    assert caught.value.message and caught.value.hint


def test_images_that_come_with_their_vector(client: Client, name: str, gallery: Path) -> None:
    model = client.model()
    (embedded,) = client.embed_images([gallery / "astronaut.png"])
    assert embedded.model == model.id
    file = gallery / "astronaut.png"
    images = [
        NewImage("given", file, vector=embedded.vector, vector_model=model.id),
        NewImage("other", file, vector=embedded.vector, vector_model="other@1"),
        NewImage("double", file, vector=2 * embedded.vector, vector_model=model.id),
        NewImage("short", file, vector=embedded.vector[:-1], vector_model=model.id),
        NewImage("text", b"no image", vector=embedded.vector, vector_model=model.id),
    ]
    results = {r.image_id: r.error and r.error.reason for r in client.collections.add_images(name, images)}
    assert results == {
        "given": None,
        "other": "MODEL_MISMATCH",
        "double": "BAD_VECTOR",
        "short": "DIMENSION_MISMATCH",
        "text": "NOT_AN_IMAGE",
    }
    assert client.search(name, "an astronaut").hits[0].image_id == "given"


async def test_the_asynchronous_client_does_the_same(running: Running, client: Client, name: str) -> None:
    mine, made = caption(client, name, "moon.png", "the moon"), vectors(client, name, PHOTOS[:2])
    async with aio.Client(running.targets["orchestrator"], embedder=running.targets["embedder"]) as other:
        assert (await other.collections.put_captions(name, [mine])).stored_count == 1
        assert await other.collections.captions(name, PHOTOS, model="cap@1") == (mine,)
        assert (await other.collections.put_vectors(name, OTHER, made)).missing_count == 2
        left = other.collections.images(name, without_captions_of="cap@1", without_vectors_of=OTHER, page_size=1)
        assert [image.id async for image in left] == ["rocket.jpg"]
        assert (await other.collections.get(name)).vector_sets == (VectorSet(OTHER, 8, 2),)
        await other.collections.delete_vectors(name, OTHER)
        with pytest.raises(NotFound):
            await other.collections.delete_vectors(name, OTHER)


def command(running: Running, *arguments: str, code: int = 0) -> Any:
    environment = {
        "WARMER_TARGET": running.targets["orchestrator"],
        "WARMER_EMBEDDER_TARGET": running.targets["embedder"],
        "WARMER_CAPTIONER_TARGET": running.targets["captioner"],
    }
    result = CliRunner().invoke(app, [*arguments, "--json"], env=environment)
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout)


def test_a_round_takes_captions_made_ahead_of_time(running: Running, client: Client, name: str) -> None:
    report = command(running, "caption", name)
    assert (report["stored"], report["missing"], report["failures"]) == (4, 0, [])
    assert command(running, "caption", name)["stored"] == 0
    (kept,) = client.collections.captions(name, "rocket.jpg", model=report["model"])
    assert kept.text
    # A sentence that the captioner would never write shows where the round has it from.
    client.collections.put_captions(
        name, [ImageCaption("rocket.jpg", kept.sha256, "a zebra on stilts", kept.model, kept.prompt_version)]
    )
    session = client.sessions.create(name, strategy="rewrite")
    session.search("a machine")
    round = session.refine(relevant=["rocket.jpg"])
    assert [(c.image_id, c.text) for c in round.captions] == [("rocket.jpg", "a zebra on stilts")]
    assert "zebra" in round.query
    assert not round.degraded_stages


def test_reembedding_with_the_same_model_has_nothing_to_do(running: Running, name: str) -> None:
    report = command(running, "collections", "reembed", name)
    assert (report["stored"], report["missing"], report["adopted"]) == (0, 0, True)
