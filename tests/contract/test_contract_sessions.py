"""Hunts through the SDK, the same over one process and over four."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

import pytest
from PIL import Image

from warmer import Client
from warmer.errors import FailedPrecondition, InvalidArgument
from warmer.types import CaptionReady, EarlyHits, NewImage, RewriteReady, RoundReady


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
    assert branch.refresh().parent_round == (session.id, 0)
    last = client.sessions.create(parent_round=(session.id, 1))
    assert [round.hits for round in last.rounds()] == [round.hits for round in session.rounds()]
    assert last.refine(relevant=[other.hits[0].image_id]).index == 2


def test_a_finished_hunt_can_be_branched(client: Client) -> None:
    session = client.sessions.create("gallery", page_size=4)
    session.search("a machine")
    assert (session.finish().state, session.info.found_image_id) == ("finished", "")
    branch = client.sessions.create(parent_round=(session.id, 0))
    assert branch.info.state == "active"
    assert branch.refine(comment="red").index == 1


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


def test_requests_that_make_sessions_and_first_rounds_can_be_repeated(client: Client) -> None:
    made, first = uuid.uuid4().hex, uuid.uuid4().hex
    session = client.sessions.create("gallery", page_size=4, request_id=made)
    assert client.sessions.create("gallery", page_size=4, request_id=made).id == session.id
    assert session.search("a machine", request_id=first) == session.search("a machine", request_id=first)
    assert session.refresh().round_count == 1


@pytest.mark.parametrize("strategy", ["rewrite", "preference"])
def test_a_round_says_how_to_repeat_and_to_rank_it(client: Client, strategy: str) -> None:
    session = client.sessions.create("gallery", strategy=strategy, page_size=4)
    first = session.search("a machine")
    second = session.refine([first.hits[1].image_id], [first.hits[0].image_id], "with two wheels")
    for round in (first, second):
        assert client.run(round.search).hits == round.hits
        ranking = client.rank(round.search, [hit.image_id for hit in round.hits], apply_exclusions=True)
        assert [rank.rank for rank in ranking.ranks] == [1, 2, 3, 4]
    shown = {hit.image_id for hit in first.hits}
    assert set(second.search.excluded_image_ids) == shown == set(second.displayed_image_ids)
    assert not shown & {hit.image_id for hit in second.hits}
    assert (second.strategy, second.feedback.comment) == (strategy, "with two wheels")
    assert "wheels" in second.query


@pytest.mark.parametrize("strategy", ["rewrite", "preference"])
def test_marks_and_pages_in_any_mix_never_repeat(client: Client, strategy: str) -> None:
    session = client.sessions.create("gallery", strategy=strategy, page_size=3)
    pages = [session.search("a photo").hits]
    pages.append(session.refine(relevant=[pages[-1][0].image_id]).hits)
    pages.append(session.refine().hits)
    pages.append(session.refine(irrelevant=[hit.image_id for hit in pages[-1]], comment="in colour").hits)
    pages.append(session.refine(comment="outdoors").hits)
    pages.append(session.refine(relevant=[pages[0][1].image_id]).hits)  # an earlier page may be marked too
    seen = [hit.image_id for page in pages for hit in page]
    assert len(seen) == len(set(seen)) == 18
    assert [round.index for round in session.rounds()] == list(range(6))


def test_read_your_writes_inside_a_session(client: Client, gallery: Path) -> None:
    name = client.collections.create(f"s-{uuid.uuid4().hex[:12]}").id
    session = client.sessions.create(name, page_size=5)
    assert session.search("a cup of espresso").hits == ()
    list(client.collections.add_images(name, [NewImage("new.png", gallery / "coffee.png")]))
    assert [hit.image_id for hit in session.refine().hits] == ["new.png"]
    client.collections.remove(name, "new.png")
    assert client.search(name, "a cup of espresso").hits == ()
    session.finish("new.png")  # it was shown, and that stays true


def test_odd_ids_can_be_marked(client: Client, gallery: Path) -> None:
    name = client.collections.create(f"s-{uuid.uuid4().hex[:12]}").id
    ids = ["with space.png", "ünï%2Fcode-日本.png", "100%", "\U0001f408"]
    photos = sorted(gallery.iterdir())
    list(client.collections.add_images(name, map(NewImage, ids, photos)))
    session = client.sessions.create(name, strategy="rewrite", page_size=4)
    assert {hit.image_id for hit in session.search("a photo").hits} == set(ids)
    round = session.refine(relevant=ids[:2], irrelevant=ids[2:])
    assert (round.feedback.relevant, round.feedback.irrelevant) == (tuple(ids[:2]), tuple(ids[2:]))
    assert {caption.image_id for caption in round.captions} == set(ids)
    assert session.finish(ids[1]).found_image_id == ids[1]


def test_sessions_are_listed_changed_and_deleted(client: Client) -> None:
    one, two = (client.sessions.create("gallery", display_name=name) for name in ("one", "two"))
    newest = [info.id for info in client.sessions.list()][:2]
    assert newest == [two.id, one.id]
    assert one.update(page_size=7, strategy="rewrite").page_size == 7
    assert len(one.search("a machine").hits) == 7
    two.delete()
    assert two.id not in [info.id for info in client.sessions.list()]
    assert client.sessions.get(one.id).info.display_name == "one"


def test_a_replaced_image_keeps_captions_apart(client: Client, gallery: Path) -> None:
    """Shown, replaced, then marked: the caption of the new content is not kept for the old one."""
    name = client.collections.create(f"s-{uuid.uuid4().hex[:12]}").id

    def put(image_id: str, photo: str, compression: int) -> None:
        file = io.BytesIO()
        with Image.open(gallery / photo) as image:
            image.convert("RGB").save(file, "PNG", compress_level=compression)
        (result,) = client.collections.add_images(name, [NewImage(image_id, file.getvalue())])
        assert result.error is None

    def caption(image_id: str) -> str:
        session = client.sessions.create(name, strategy="rewrite", page_size=4)
        session.search("a photo")
        return session.refine(relevant=[image_id]).captions[0].text

    put("x", "chelsea.png", 1)
    session = client.sessions.create(name, strategy="rewrite", page_size=4)
    session.search("a photo")
    put("x", "rocket.jpg", 1)
    new = session.refine(relevant=["x"]).captions[0].text
    put("again", "chelsea.png", 1)  # the bytes that x had
    put("other file", "chelsea.png", 9)  # the same pixels in other bytes
    assert caption("again") == caption("other file") != new


@pytest.mark.parametrize("strategy", ["preference", "rewrite"])
def test_a_hunt_outlives_the_removal_of_what_it_showed(client: Client, gallery: Path, strategy: str) -> None:
    name = client.collections.create(f"r-{uuid.uuid4().hex[:12]}").id
    client.collections.add_folder(name, gallery)
    session = client.sessions.create(name, strategy=strategy, page_size=4)
    shown = [hit.image_id for hit in session.search("a cat").hits]
    by_example = client.sessions.create(name, strategy=strategy, page_size=4)
    by_example.search(image_id=shown[3])
    session.refine(relevant=[shown[0]])
    client.collections.remove(name, [shown[0], shown[2], shown[3]])  # marked, unmarked, and the other hunt's example
    assert session.refine().hits
    assert session.refine(comment="striped").hits
    again = session.refine(relevant=[shown[1]])
    assert again.hits
    assert not {hit.image_id for hit in again.hits} & set(shown)
    assert by_example.refine().hits
    assert [round.index for round in session.rounds()] == [0, 1, 2, 3, 4]
