"""What a round does when a service fails, is slow, or gives what cannot be used."""

from __future__ import annotations

import grpc
import pytest
from orchestrator_peers import image_bytes, new_session, refine, unavailable

from warmer.errors import from_rpc_error
from warmer.v1 import embedder_pb2
from warmer.v1 import orchestrator_pb2 as pb
from warmer.v1.rewriter_pb2 import Rewrite

PREFERENCE, REWRITE = pb.STRATEGY_PREFERENCE, pb.STRATEGY_REWRITE


def stages(events):
    return [
        (pb.Stage.Name(e.stage.stage)[6:], pb.StageEvent.Phase.Name(e.stage.phase)[6:])
        for e in events
        if e.WhichOneof("event") == "stage"
    ]


def ids(round):
    return [hit.image_id for hit in round.hits]


async def test_captioner_down_degrades_and_the_comment_still_counts(stub, stack):
    stack.captioner.trouble.errors["GetModel"] = unavailable("captioner")
    session, first = await new_session(stub)
    events = await refine(stub, session.name, relevant=[first.hits[0].image_id], comment="snow")
    assert ("CAPTION", "SKIPPED") in stages(events)
    skipped = next(e.stage for e in events if e.stage.phase == pb.StageEvent.PHASE_SKIPPED)
    assert "captioner is down" in skipped.detail
    round = events[-1].round
    assert list(round.degraded_stages) == [pb.STAGE_CAPTION]
    assert round.rewrite.text == "a dog on grass snow"


async def test_a_captioner_that_was_never_there_is_replaced_by_any_kept_caption(stub, stack):
    stack.captioner.trouble.errors["GetModel"] = unavailable("captioner")
    session, first = await new_session(stub)
    good, bad = ids(first)[:2]
    stack.embedder.captions += [
        embedder_pb2.ImageCaption(image_id=good, text="the newest", model="b", prompt_version="1"),
        embedder_pb2.ImageCaption(image_id=good, text="an older one", model="a"),
    ]
    round = (await refine(stub, session.name, relevant=[good]))[-1].round
    assert [(c.key, c.text, c.model) for c in round.captions] == [(good, "the newest", "b")]
    assert not round.degraded_stages
    events = await refine(stub, session.name, relevant=[good, bad])
    assert [c.key for c in events[-1].round.captions] == [good]
    skipped = next(e.stage for e in events if e.stage.phase == pb.StageEvent.PHASE_SKIPPED)
    assert "captioner is down" in skipped.detail


async def test_a_collection_that_cannot_tell_its_captions_does_without(stub, stack):
    stack.embedder.trouble.errors["GetCaptions"] = unavailable("embedder")
    session, first = await new_session(stub)
    chosen = ids(first)[0]
    round = (await refine(stub, session.name, relevant=[chosen]))[-1].round
    assert [c.text for c in round.captions] == [stack.embedder.descriptions[chosen]]
    assert not round.degraded_stages


async def test_one_image_without_caption_leaves_the_others(stub, stack):
    session, first = await new_session(stub)
    good, bad = ids(first)[:2]
    stack.captioner.broken_keys.add(bad)
    events = await refine(stub, session.name, relevant=[good, bad])
    round = events[-1].round
    assert [c.key for c in round.captions] == [good]
    assert list(round.degraded_stages) == [pb.STAGE_CAPTION]
    assert list(stack.rewriter.requests[0].relevant_captions) == [stack.embedder.descriptions[good]]
    failed = next(e.caption for e in events if e.WhichOneof("event") == "caption" and e.caption.key == bad)
    assert failed.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_rewriter_down_falls_back_to_the_plain_join(stub, stack):
    stack.rewriter.trouble.errors["Rewrite"] = unavailable("rewriter")
    session, first = await new_session(stub)
    chosen = first.hits[0].image_id
    round = (await refine(stub, session.name, relevant=[chosen], comment="snow."))[-1].round
    assert round.rewrite.fell_back
    assert round.rewrite.fallback_reason == Rewrite.FALLBACK_REASON_UNAVAILABLE
    assert round.query == f"a dog on grass, {stack.embedder.descriptions[chosen]}, snow"
    assert list(round.degraded_stages) == [pb.STAGE_REWRITE]


async def test_a_slow_rewriter_is_cut_off_in_time(stub, stack):
    stack.rewriter.trouble.delays["before_rewrite"] = 20
    session, _ = await new_session(stub)
    request = pb.RefineSessionRequest(session=session.name, feedback=pb.Feedback(comment="snow"))
    events = [event async for event in stub.RefineSession(request, timeout=3)]
    round = events[-1].round
    assert round.rewrite.fallback_reason == Rewrite.FALLBACK_REASON_UNAVAILABLE
    assert ("REWRITE", "SKIPPED") in stages(events)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_rewrite_that_strays_is_rejected(stub, stack):
    stack.rewriter.answer = "quarterly revenue forecast"
    session, _ = await new_session(stub)
    round = (await refine(stub, session.name, comment="snow"))[-1].round
    assert round.rewrite.fallback_reason == Rewrite.FALLBACK_REASON_STRAYED
    assert round.rewrite.rejected_text == "quarterly revenue forecast"
    assert round.query == "a dog on grass, snow"
    assert not round.degraded_stages


async def test_an_empty_rewrite_is_replaced(stub, stack):
    stack.rewriter.empty = True
    session, _ = await new_session(stub)
    round = (await refine(stub, session.name, comment="snow"))[-1].round
    assert round.rewrite.fallback_reason == Rewrite.FALLBACK_REASON_EMPTY
    assert round.query == "a dog on grass, snow"


async def test_a_slow_early_search_is_skipped(stub, stack):
    session, _ = await new_session(stub)
    stack.embedder.trouble.delays["Search"] = 1.0
    request = pb.RefineSessionRequest(session=session.name, feedback=pb.Feedback(comment="snow"))
    events = [event async for event in stub.RefineSession(request, timeout=2.5)]
    assert list(events[-1].round.degraded_stages) == [pb.STAGE_EARLY_SEARCH]


async def test_embedder_down_stores_nothing_and_can_be_repeated(stub, stack):
    session, first = await new_session(stub)
    stack.embedder.trouble.errors["Search"] = unavailable("embedder")
    fields = {"relevant": [first.hits[0].image_id], "request_id": "r1", "etag": first.etag}
    with pytest.raises(grpc.RpcError) as caught:
        await refine(stub, session.name, **fields)
    error = from_rpc_error(caught.value)
    assert (error.code, error.metadata["service"]) == (grpc.StatusCode.UNAVAILABLE, "embedder")
    assert (await stub.GetSession(pb.GetSessionRequest(name=session.name))).etag == first.etag
    stack.embedder.trouble.errors.clear()
    round = (await refine(stub, session.name, **fields))[-1].round
    assert round.index == 1


async def test_marking_only_irrelevant_after_an_image_alone_needs_no_rewrite(stub, stack):
    session = await stub.CreateSession(pb.CreateSessionRequest(session=pb.Session(collection="collections/zoo")))
    request = pb.SearchSessionRequest(session=session.name, image=image_bytes("a white fox on snow"))
    first = await stub.SearchSession(request)
    stack.captioner.trouble.errors["Caption"] = unavailable("captioner")
    round = (await refine(stub, session.name, irrelevant=[first.hits[0].image_id]))[-1].round
    assert not round.HasField("rewrite")
    assert [t.WhichOneof("content") for t in round.search.terms] == ["vector"]
    assert len(round.hits) == 10
