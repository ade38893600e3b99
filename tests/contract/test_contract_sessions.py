"""Hunts through the SDK, the same over one process and over four."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from running import Running

from warmer import Client
from warmer.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from warmer.types import CaptionReady, EarlyHits, RewriteReady, RoundReady


def test_a_whole_hunt_by_rewrite(client: Client) -> None:
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    first = session.search("something far away")
    assert (first.index, len(first.hits), first.query) == (0, 4, "something far away")
    marked = first.hits[0].image_id
    events = list(session.refine_stream(relevant=[marked], comment="before a launch"))
    kinds = [type(event) for event in events]
    assert kinds.index(EarlyHits) < kinds.index(CaptionReady) < kinds.index(RewriteReady)
    assert kinds[-1] is RoundReady
    assert kinds.count(RoundReady) == 1
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    caption = next(event.caption for event in events if isinstance(event, CaptionReady))
    assert (caption.image_id, caption.error) == (marked, None)
    assert len(caption.text.split()) >= 3
    second = events[-1].round
    assert "launch" in second.query
    assert not {hit.image_id for hit in first.hits} & {hit.image_id for hit in second.hits}
    assert second.degraded_stages == ()
    found = second.hits[0].image_id
    assert session.finish(found).found_image_id == found
    assert [round.index for round in session.rounds()] == [0, 1]
    with pytest.raises(FailedPrecondition) as caught:
        session.refine(comment="more")
    assert caught.value.reason == "SESSION_FINISHED"


def test_preference_asks_no_language_model(client: Client) -> None:
    session = client.sessions.create("gallery", strategy="preference", page_size=4)
    first = session.search("a machine")
    second = session.refine(relevant=[first.hits[1].image_id], irrelevant=[first.hits[0].image_id])
    assert second.captions == ()
    assert second.rewrite is None
    (preference,) = second.search.preferences
    assert preference.relevant == (first.hits[1].image_id,)
    assert set(preference.unmarked) == {hit.image_id for hit in first.hits[2:]}


@pytest.mark.parametrize("strategy", ["rewrite", "preference"])
def test_pages_never_repeat(client: Client, strategy: str) -> None:
    session = client.sessions.create("gallery", strategy=strategy, page_size=5)
    seen = [hit.image_id for hit in session.search("a photo").hits]
    while hits := session.refine().hits:
        seen += [hit.image_id for hit in hits]
    assert len(seen) == len(set(seen)) == client.collections.get("gallery").image_count


def test_only_displayed_images_are_excluded(client: Client) -> None:
    session = client.sessions.create("gallery", page_size=5)
    hits = [hit.image_id for hit in session.search("a photo").hits]
    second = [hit.image_id for hit in session.refine(displayed=hits[:2]).hits]
    assert second[:3] == hits[2:]


def test_example_image(client: Client, gallery: Path) -> None:
    session = client.sessions.create("gallery", page_size=3)
    first = session.search(image=gallery / "motorcycle_left.png")
    assert {hit.image_id for hit in first.hits[:2]} == {"motorcycle_left.png", "motorcycle_right.png"}
    both = client.sessions.create("gallery", page_size=3).search("a rocket", image=gallery / "rocket.jpg")
    assert both.hits[0].image_id == "rocket.jpg"


def test_branch_from_an_earlier_round(client: Client) -> None:
    session = client.sessions.create("gallery", strategy="preference", page_size=4)
    session.search("a machine")
    other = session.refine(irrelevant=[next(session.rounds()).hits[0].image_id])
    branch = client.sessions.create(parent_round=(session.id, 0))
    assert [round.index for round in branch.rounds()] == [0]
    again = branch.refine()
    assert again.index == 1
    assert [round.index for round in session.rounds()] == [0, 1]
    assert again.search != other.search


def test_a_repeated_request_gives_the_same_round(client: Client) -> None:
    session = client.sessions.create("gallery", strategy="preference", page_size=4)
    first = session.search("a machine")
    request = uuid.uuid4().hex
    one = session.refine(relevant=[first.hits[0].image_id], request_id=request)
    two = session.refine(relevant=[first.hits[0].image_id], request_id=request)
    assert one == two
    assert session.refresh().round_count == 2
    with pytest.raises(InvalidArgument) as caught:
        session.refine(comment="other", request_id=request)
    assert caught.value.reason == "CONFLICTING_REQUEST_ID"


def test_stale_etag(client: Client) -> None:
    session = client.sessions.create("gallery", page_size=4)
    old = session.search("a machine").etag
    session.refine()
    with pytest.raises(Aborted) as caught:
        session.refine(etag=old)
    assert caught.value.reason == "STALE_ETAG"
    assert session.refresh().round_count == 2


def test_deleted_session(client: Client) -> None:
    session = client.sessions.create("gallery")
    session.delete()
    with pytest.raises(NotFound) as caught:
        session.search("a cat")
    assert caught.value.reason == "SESSION_NOT_FOUND"


def test_both_ways_give_the_same_hits(local: Running, processes: Running) -> None:
    pages = []
    for running in (local, processes):
        with running.client() as client:
            for strategy in ("preference", "rewrite"):
                session = client.sessions.create("gallery", strategy=strategy, page_size=6)
                first = session.search("somebody outdoors")
                second = session.refine([first.hits[1].image_id], [first.hits[0].image_id], "with a camera")
                pages.append([(hit.image_id, hit.score) for round in (first, second) for hit in round.hits])
    half = len(pages) // 2
    for one, four in zip(pages[:half], pages[half:], strict=True):
        assert [image for image, _ in one] == [image for image, _ in four]
        assert [score for _, score in one] == pytest.approx([score for _, score in four], abs=1e-5)
