"""One process and four are one system: the same queries and feedback give the same ids, scores and queries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running

from warmer import Client
from warmer.types import Hit, Round, Term

Page = list[tuple[str, float]]


@pytest.fixture(scope="module")
def hundred(flickr_val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first hundred photos of flickr8k/val."""
    folder = tmp_path_factory.mktemp("hundred")
    for photo in sorted((flickr_val / "images").iterdir())[:100]:
        shutil.copy(photo, folder / photo.name)
    return folder


def page(hits: tuple[Hit, ...]) -> Page:
    return [(hit.image_id, hit.score) for hit in hits]


def searches(client: Client, collection: str, query: str) -> Iterator[Page]:
    """Every kind of search."""
    hits = client.search(collection, query, top_k=50).hits
    yield page(hits)
    yield page(client.search(collection, query, image_id=hits[3].image_id, top_k=20).hits)
    yield page(client.search(collection, image=client.collections.image_bytes(collection, hits[1].image_id)).hits)
    yield page(client.search(collection, query, terms=[Term(image_id=hits[0].image_id, weight=-0.5)]).hits)
    yield page(client.search(collection, query, excluded=[hits[0].image_id], min_similarity=0.05).hits)


def hunt(client: Client, collection: str, strategy: str, query: str) -> Iterator[Round]:
    """Four rounds with every kind of feedback."""
    session = client.sessions.create(collection, strategy=strategy, page_size=4)
    first = session.search(query)
    yield first
    yield session.refine([first.hits[1].image_id], [first.hits[0].image_id], "with a camera")
    yield session.refine()
    yield session.refine(relevant=[first.hits[2].image_id])


def captions(round: Round) -> dict[str, str]:
    """By image: they come in the order in which they are ready."""
    return {caption.image_id: caption.text for caption in round.captions}


def same_hits(local: Running, processes: Running, collection: str, query: str) -> None:
    with local.client() as one, processes.client() as four:
        assert one.model() == four.model()
        for here, there in zip(searches(one, collection, query), searches(four, collection, query), strict=True):
            assert_same(here, there)
        for strategy in ("preference", "rewrite"):
            rounds = (hunt(client, collection, strategy, query) for client in (one, four))
            for here, there in zip(*rounds, strict=True):
                assert here.query == there.query
                assert here.degraded_stages == there.degraded_stages == ()
                assert captions(here) == captions(there)
                assert_same(page(here.hits), page(there.hits))


def assert_same(here: Page, there: Page) -> None:
    assert here
    assert [image for image, _ in here] == [image for image, _ in there]
    assert [score for _, score in here] == pytest.approx([score for _, score in there], abs=1e-5)


def test_on_the_sample_gallery(local: Running, processes: Running) -> None:
    same_hits(local, processes, "gallery", "somebody outdoors")


def test_on_a_hundred_photos(local: Running, processes: Running, hundred: Path) -> None:
    for running in (local, processes):
        with running.client() as client:
            client.collections.create("hundred")
            report = client.collections.add_folder("hundred", hundred)
            assert (report.added, report.failures) == (100, ())
    same_hits(local, processes, "hundred", "a dog runs on grass")
