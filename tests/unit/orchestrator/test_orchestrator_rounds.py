"""What a round does: its stages, its events, and its search."""

from __future__ import annotations

import numpy as np
import pytest
from orchestrator_peers import image_bytes, new_session, refine, text_vector, unavailable

from warmer.v1 import embedder_pb2
from warmer.v1 import orchestrator_pb2 as pb

PREFERENCE, REWRITE = pb.STRATEGY_PREFERENCE, pb.STRATEGY_REWRITE


def kinds(events):
    return [event.WhichOneof("event") for event in events]


def stages(events):
    return [
        (pb.Stage.Name(e.stage.stage)[6:], pb.StageEvent.Phase.Name(e.stage.phase)[6:])
        for e in events
        if e.WhichOneof("event") == "stage"
    ]


def ids(round):
    return [hit.image_id for hit in round.hits]


async def test_round_0_finds_what_was_asked_for(stub, stack):
    session, round = await new_session(stub, "a black dog on grass")
    assert stack.embedder.descriptions[round.hits[0].image_id] == "a black dog on grass"
    assert (round.name, round.index, round.query) == (f"{session.name}/rounds/0", 0, "a black dog on grass")
    assert len(round.hits) == 10
    assert not round.HasField("feedback")
    assert [t.stage for t in round.timings] == ["search"]
    assert round.strategy == REWRITE
    after = await stub.GetSession(pb.GetSessionRequest(name=session.name))
    assert (after.round_count, after.etag) == (1, round.etag)
    assert after.etag != session.etag


async def test_rewrite_round_runs_all_stages_and_stores_what_it_streams(stub, stack):
    session, first = await new_session(stub)
    chosen = first.hits[3].image_id
    events = await refine(stub, session.name, relevant=[chosen], comment="with snow")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert stages(events) == [
        (stage, phase)
        for stage in ("EARLY_SEARCH", "CAPTION", "REWRITE", "SEARCH")
        for phase in ("STARTED", "FINISHED")
    ]
    assert kinds(events).count("round") == 1
    assert kinds(events)[-1] == "round"
    assert kinds(events).index("early_hits") < kinds(events).index("caption_delta")
    description = stack.embedder.descriptions[chosen]
    assert "".join(e.caption_delta.text for e in events if e.WhichOneof("event") == "caption_delta") == description
    round = events[-1].round
    assert [(c.key, c.text) for c in round.captions] == [(chosen, description)]
    assert stack.rewriter.requests[0].query == "a dog on grass"
    assert list(stack.rewriter.requests[0].relevant_captions) == [description]
    assert stack.rewriter.requests[0].comment == "with snow"
    assert round.query == round.rewrite.text != ""
    assert "".join(e.rewrite_delta for e in events if e.WhichOneof("event") == "rewrite_delta").strip() == round.query
    assert [t.text for t in round.search.terms] == [round.query]
    assert list(round.displayed_image_ids) == ids(first)
    assert set(round.search.excluded_image_ids) == set(ids(first))
    assert not set(ids(round)) & set(ids(first))
    assert not round.degraded_stages
    assert [t.stage for t in round.timings] == ["early_search", "caption", "rewrite", "search"]
    stored = await stub.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert list(stored.rounds) == [first, round]


async def test_preference_needs_no_language_model(stub, stack):
    session, first = await new_session(stub, strategy=PREFERENCE)
    marked, rejected = first.hits[2].image_id, first.hits[5].image_id
    events = await refine(stub, session.name, relevant=[marked], irrelevant=[rejected], comment="snow")
    assert kinds(events) == ["stage", "stage", "round"]
    assert not stack.captioner.trouble.calls
    assert not stack.rewriter.requests
    round = events[-1].round
    assert round.query == "a dog on grass, snow"
    (preference,) = round.search.preferences
    assert list(preference.relevant_image_ids) == [marked]
    assert list(preference.irrelevant_image_ids) == [rejected]
    assert list(preference.unmarked_image_ids) == [id for id in ids(first) if id not in (marked, rejected)]
    assert len(stack.embedder.searches) == 2  # round 0 and this one: the early search is the search


async def test_a_round_can_be_repeated_from_its_search(stub, stack):
    session, first = await new_session(stub, strategy=PREFERENCE)
    round = (await refine(stub, session.name, relevant=[first.hits[1].image_id]))[-1].round
    _, score = stack.embedder.score(round.search)
    left = [i for i in np.argsort(-score, kind="stable") if stack.embedder.ids[i] not in set(ids(first))]
    assert ids(round) == [stack.embedder.ids[i] for i in left[:10]]


@pytest.mark.parametrize("strategy", [REWRITE, PREFERENCE])
async def test_no_feedback_is_the_next_page(stub, stack, strategy):
    session, first = await new_session(stub, strategy=strategy)
    events = await refine(stub, session.name)
    round = events[-1].round
    order = np.argsort(-(stack.embedder.vectors @ text_vector("a dog on grass")), kind="stable")
    assert ids(first) + ids(round) == [stack.embedder.ids[i] for i in order[:20]]
    assert kinds(events) == ["stage", "stage", "round"]
    assert not stack.rewriter.requests
    assert round.query == "a dog on grass"
    third = (await refine(stub, session.name))[-1].round
    assert ids(third) == [stack.embedder.ids[i] for i in order[20:30]]


async def test_only_displayed_images_are_excluded(stub):
    session, first = await new_session(stub)
    seen = ids(first)[:4]
    round = (await refine(stub, session.name, displayed_image_ids=seen))[-1].round
    assert list(round.displayed_image_ids) == seen
    assert ids(round)[:6] == ids(first)[4:]


async def test_a_comment_alone_goes_to_the_rewriter_without_captions(stub, stack):
    session, _ = await new_session(stub)
    events = await refine(stub, session.name, comment="  with\n snow ")
    assert "CAPTION" not in [stage for stage, _ in stages(events)]
    (request,) = stack.rewriter.requests
    assert (request.query, request.comment, len(request.relevant_captions)) == ("a dog on grass", "with snow", 0)


async def test_irrelevant_marks_reach_the_rewriter_as_such(stub, stack):
    session, first = await new_session(stub)
    bad = first.hits[0].image_id
    await refine(stub, session.name, irrelevant=[bad])
    (request,) = stack.rewriter.requests
    assert list(request.irrelevant_captions) == [stack.embedder.descriptions[bad]]
    assert not request.relevant_captions


async def test_marks_outside_the_displayed_are_evidence_and_seen(stub):
    session, first = await new_session(stub, strategy=PREFERENCE)
    shown, other = ids(first)[:3], ids(first)[7]
    round = (await refine(stub, session.name, displayed_image_ids=shown, relevant=[other]))[-1].round
    assert list(round.displayed_image_ids) == [*shown, other]
    (preference,) = round.search.preferences
    assert list(preference.unmarked_image_ids) == shown


async def test_early_hits_may_be_marked(stub):
    session, first = await new_session(stub)
    events = await refine(stub, session.name, relevant=[first.hits[0].image_id], comment="a fish in water")
    early = next(e.early_hits for e in events if e.WhichOneof("event") == "early_hits")
    only_early = [hit.image_id for hit in early.hits if hit.image_id not in ids(events[-1].round)]
    assert only_early
    after = (await refine(stub, session.name, relevant=only_early[:1]))[-1].round
    assert only_early[0] in after.displayed_image_ids


async def test_cached_captions_move_no_image(stub, stack):
    session, first = await new_session(stub)
    chosen = first.hits[3].image_id
    await refine(stub, session.name, relevant=[chosen])
    assert stack.embedder.trouble.calls.count("GetImageContent") == 1
    other, _ = await new_session(stub)
    round = (await refine(stub, other.name, relevant=[chosen]))[-1].round
    assert stack.embedder.trouble.calls.count("GetImageContent") == 1
    assert stack.captioner.trouble.calls.count("Caption") == 1
    assert [(c.key, c.text) for c in round.captions] == [(chosen, stack.embedder.descriptions[chosen])]
    stack.captioner.trouble.errors |= {"Caption": unavailable("captioner"), "GetModel": unavailable("captioner")}
    third, _ = await new_session(stub)
    round = (await refine(stub, third.name, relevant=[chosen]))[-1].round
    assert round.captions
    assert not round.degraded_stages


def kept(id: str, text: str, model: str = "plain-captioner", prompt_version: str = "p1") -> embedder_pb2.ImageCaption:
    return embedder_pb2.ImageCaption(image_id=id, text=text, model=model, prompt_version=prompt_version)


async def test_captions_made_ahead_of_time_are_taken_from_the_collection(stub, stack):
    session, first = await new_session(stub)
    one, two, three = ids(first)[:3]
    stack.embedder.captions += [kept(one, "one ahead"), kept(two, "of another prompt", prompt_version="p0")]
    stack.embedder.captions.append(kept(three, "three ahead"))
    round = (await refine(stub, session.name, relevant=[one, two], irrelevant=[three]))[-1].round
    assert {c.key: c.text for c in round.captions} == {
        one: "one ahead",
        two: stack.embedder.descriptions[two],
        three: "three ahead",
    }
    assert stack.captioner.captioned == [two]
    assert stack.embedder.trouble.calls.count("GetCaptions") == 1
    assert stack.embedder.trouble.calls.count("GetImageContent") == 1
    assert not round.degraded_stages


async def test_a_kept_caption_goes_before_a_cached_one(stub, stack):
    session, first = await new_session(stub)
    chosen = ids(first)[0]
    await refine(stub, session.name, relevant=[chosen])
    stack.embedder.captions.append(kept(chosen, "made ahead"))
    other, _ = await new_session(stub)
    round = (await refine(stub, other.name, relevant=[chosen]))[-1].round
    assert [c.text for c in round.captions] == ["made ahead"]
    assert stack.captioner.trouble.calls.count("Caption") == 1


async def test_an_example_image_is_kept_as_a_vector_and_goes_on(stub, stack):
    session = await stub.CreateSession(pb.CreateSessionRequest(session=pb.Session(collection="collections/zoo")))
    request = pb.SearchSessionRequest(session=session.name, image=image_bytes("a white fox on snow"))
    first = await stub.SearchSession(request)
    assert stack.embedder.descriptions[first.hits[0].image_id] == "a white fox on snow"
    assert first.query == ""
    (term,) = first.search.terms
    assert np.allclose(np.frombuffer(term.vector, "<f4"), text_vector("a white fox on snow"))
    round = (await refine(stub, session.name, relevant=[first.hits[2].image_id], comment="on sand"))[-1].round
    assert stack.embedder.trouble.calls.count("EmbedImages") == 1
    assert [t.WhichOneof("content") for t in round.search.terms] == ["text", "vector"]
    assert stack.rewriter.requests[0].query == stack.embedder.descriptions[first.hits[2].image_id]


async def test_text_and_an_image_of_the_collection(stub, stack):
    session = await stub.CreateSession(pb.CreateSessionRequest(session=pb.Session(collection="collections/zoo")))
    example = stack.embedder.ids[7]
    round = await stub.SearchSession(pb.SearchSessionRequest(session=session.name, text="fish", image_id=example))
    text, vector = round.search.terms
    assert text.text == "fish"
    assert np.allclose(np.frombuffer(vector.vector, "<f4"), text_vector(stack.embedder.descriptions[example]))


async def test_a_long_text_is_reported_as_truncated(stub):
    text = "a dog on grass " * 10
    _, round = await new_session(stub, text)
    (truncation,) = round.truncations
    assert (truncation.index, truncation.tokens, truncation.max_tokens) == (0, 40, 12)


async def test_the_strategy_may_change_between_rounds(stub, stack):
    session, first = await new_session(stub)
    update = pb.Session(name=session.name, strategy=PREFERENCE, page_size=3)
    await stub.UpdateSession(pb.UpdateSessionRequest(session=update))
    round = (await refine(stub, session.name, relevant=[first.hits[0].image_id]))[-1].round
    assert round.strategy == PREFERENCE
    assert len(round.hits) == 3
    assert len(round.search.preferences) == 1
