"""Collections and searches through the SDK, the same over one process and over four."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from warmer import Client
from warmer.errors import AlreadyExists, NotFound, Unavailable
from warmer.names import path_from_image_id
from warmer.types import FolderProgress, NewImage, Term


@pytest.fixture
def name(client: Client) -> str:
    return client.collections.create(f"c-{uuid.uuid4().hex[:12]}").id


def test_life_of_a_collection(client: Client, name: str, gallery: Path) -> None:
    created = client.collections.get(name)
    assert (created.state, created.image_count, created.dimensions) == ("ready", 0, 256)
    assert name in [collection.id for collection in client.collections.list()]
    with pytest.raises(AlreadyExists):
        client.collections.create(name)
    results = list(client.collections.add_images(name, [NewImage("cat", gallery / "chelsea.png")]))
    assert [(result.image_id, result.outcome) for result in results] == [("cat", "added")]
    image = client.collections.image(name, "cat")
    assert (image.width, image.height, image.media_type) == (451, 300, "image/png")
    assert client.collections.image_bytes(name, "cat") == (gallery / "chelsea.png").read_bytes()
    client.collections.delete(name)
    with pytest.raises(NotFound) as caught:
        client.collections.get(name)
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    assert name in str(caught.value)


def test_adding_again_changes_nothing_and_replacing_replaces(client: Client, name: str, gallery: Path) -> None:
    cat, cup = gallery / "chelsea.png", gallery / "coffee.png"
    for content, outcome in ((cat, "added"), (cat, "unchanged"), (cup, "replaced")):
        assert [r.outcome for r in client.collections.add_images(name, [NewImage("x", content)])] == [outcome]
    assert client.collections.get(name).image_count == 1
    removed = client.collections.remove(name, ["x", "never-there"])
    assert (removed.removed_count, removed.missing_image_ids) == (1, ("never-there",))
    assert client.search(name, "a cat").hits == ()


def test_two_ids_share_one_content(client: Client, name: str, gallery: Path) -> None:
    cat = gallery / "chelsea.png"
    list(client.collections.add_images(name, [NewImage("a", cat), NewImage("b", cat)]))
    assert client.collections.get(name).content_bytes == cat.stat().st_size
    client.collections.remove(name, "a")
    assert client.collections.image_bytes(name, "b") == cat.read_bytes()


@pytest.mark.parametrize("image_id", ["with space", "ünïcode-日本", "100%", "a%2Fb.jpg", "-dash", "a:b?c#d"])
def test_odd_ids(client: Client, name: str, gallery: Path, image_id: str) -> None:
    list(client.collections.add_images(name, [NewImage(image_id, gallery / "coffee.png")]))
    assert [hit.image_id for hit in client.search(name, "coffee").hits] == [image_id]
    assert client.collections.image(name, image_id).id == image_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cup of espresso", "coffee.png"),
        ("a tabby cat", "chelsea.png"),
        ("a rocket", "rocket.jpg"),
        ("an astronaut in an orange suit", "astronaut.png"),
        ("a man with a camera", "camera.png"),
    ],
)
def test_words_find_their_photo(client: Client, text: str, expected: str) -> None:
    assert client.search("gallery", text, top_k=3).hits[0].image_id == expected


def test_every_kind_of_term(client: Client, gallery: Path) -> None:
    cat = gallery / "chelsea.png"
    assert client.search("gallery", image=cat).hits[0].image_id == "chelsea.png"
    assert client.search("gallery", image_id="chelsea.png").hits[0].similarity == pytest.approx(1, abs=1e-4)
    vector = client.embed_text("a rocket")[0]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
    by_vector = client.search("gallery", terms=[Term(vector=vector)]).hits
    assert [hit.image_id for hit in by_vector] == [hit.image_id for hit in client.search("gallery", "a rocket").hits]
    pushed = client.search("gallery", terms=[Term(text="a rocket"), Term(image_id="rocket.jpg", weight=-2)], top_k=100)
    assert pushed.hits[-1].image_id == "rocket.jpg"


def test_weighted_terms_are_one_weighted_sum(client: Client, gallery: Path) -> None:
    moon = gallery / "moon.png"
    (embedded,) = client.embed_images([moon])
    total = 2 * client.embed_text("a rocket")[0] - 0.5 * embedded.vector
    by_hand = client.search("gallery", terms=[Term(vector=total / np.linalg.norm(total))], top_k=100).hits
    for example in (Term(image_id="moon.png", weight=-0.5), Term(image=moon.read_bytes(), weight=-0.5)):
        hits = client.search("gallery", terms=[Term(text="a rocket", weight=2), example], top_k=100).hits
        assert [hit.image_id for hit in hits] == [hit.image_id for hit in by_hand]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in by_hand], abs=1e-5)
    one, two = (
        client.search("gallery", terms=[Term(text="a cat", weight=a), Term(text="a rocket", weight=b)]).hits
        for a, b in ((1, 0.01), (0.01, 1))
    )
    assert (one[0].image_id, two[0].image_id) == ("chelsea.png", "rocket.jpg")


def test_exclusions_cutoff_and_ranks_agree(client: Client) -> None:
    hits = client.search("gallery", "a cat", top_k=5).hits
    rest = client.search("gallery", "a cat", top_k=5, excluded=[hits[0].image_id]).hits
    assert [hit.image_id for hit in rest[:4]] == [hit.image_id for hit in hits[1:]]
    assert len(client.search("gallery", "a cat", min_similarity=hits[1].similarity).hits) == 2
    round_search = client.sessions.create("gallery").search("a cat").search
    ranking = client.rank(round_search, [hit.image_id for hit in hits])
    assert [rank.rank for rank in ranking.ranks] == [1, 2, 3, 4, 5]


def test_read_your_writes(client: Client, name: str, gallery: Path) -> None:
    (result,) = client.collections.add_images(name, [NewImage("cup", gallery / "coffee.png")])
    found = client.search(name, "coffee", min_revision=result.revision)
    assert found.hits
    assert found.revision >= result.revision
    with pytest.raises(Unavailable) as caught:
        client.search(name, "coffee", min_revision=result.revision + 1)
    assert caught.value.reason == "REVISION_NOT_REACHED"


def test_every_image_is_found_as_soon_as_it_is_acknowledged(client: Client, name: str, gallery: Path) -> None:
    photos = sorted(gallery.iterdir())
    found = []
    for result in client.collections.add_images(name, [NewImage(photo.name, photo) for photo in photos]):
        hits = client.search(name, image_id=result.image_id, top_k=1, min_revision=result.revision).hits
        found.append(hits[0].sha256 == result.sha256)
    assert found == [True] * len(photos)


def test_a_folder_with_folders_keeps_their_names(client: Client, name: str, gallery: Path, tmp_path: Path) -> None:
    for relative in ("top.png", "trip 2024/näh%e.png", "trip 2024/deep/er/x.png", ".hidden/no.png"):
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(gallery / "coffee.png", tmp_path / relative)
    seen: list[FolderProgress] = []
    report = client.collections.add_folder(name, tmp_path, progress=seen.append)
    assert (report.added, report.failures) == (3, ())
    assert [(state.done, state.total) for state in seen] == [(1, 3), (2, 3), (3, 3)]
    images = {image.id: image.source for image in client.collections.images(name)}
    expected = {"top.png", "trip 2024%2Fnäh%25e.png", "trip 2024%2Fdeep%2Fer%2Fx.png"}
    assert set(images) == expected
    for image_id, source in images.items():
        assert str(path_from_image_id(image_id)) == source
    assert client.collections.get(name).content_bytes == (gallery / "coffee.png").stat().st_size
    shutil.copy(gallery / "moon.png", tmp_path / "top.png")
    report = client.collections.add_folder(name, tmp_path)
    assert (report.added, report.replaced, report.unchanged) == (0, 1, 2)
