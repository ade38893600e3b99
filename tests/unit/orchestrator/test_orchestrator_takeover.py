"""One round, many hands: replay, re-attaching, taking over from a dead owner. Two replicas, one Redis."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from orchestrator_peers import new_session, refine

from services.orchestrator.store.keys import DEFAULT_TENANT, SessionRef
from warmer.errors import from_rpc_error
from warmer.names import session_id
from warmer.v1 import orchestrator_pb2 as pb


def request_for(session, first, **fields):
    feedback = pb.Feedback(relevant_image_ids=[first.hits[0].image_id, first.hits[1].image_id], comment="on snow")
    return pb.RefineSessionRequest(session=session.name, feedback=feedback, **fields)


async def collect(call):
    return [event async for event in call]


def timings_without_time(events):
    return [event.SerializeToString(deterministic=True) for event in events]


async def failure_of(awaitable):
    with pytest.raises(grpc.RpcError) as caught:
        await awaitable
    return from_rpc_error(caught.value)


async def test_a_repeated_request_replays_the_same_events_with_the_same_numbers(stack, database):
    a, _ = await stack.replica(database)
    b, _ = await stack.replica(database)
    session, first = await new_session(a)
    request = request_for(session, first, request_id="r1", etag=first.etag)
    events = await collect(a.RefineSession(request))
    for stub in (a, b):
        assert timings_without_time(await collect(stub.RefineSession(request))) == timings_without_time(events)
    assert stack.captioner.trouble.calls.count("Caption") == 1
    assert (await a.GetSession(pb.GetSessionRequest(name=session.name))).round_count == 2


async def test_round_0_can_be_repeated_too(stack, database):
    a, _ = await stack.replica(database)
    session = await a.CreateSession(pb.CreateSessionRequest(session=pb.Session(collection="collections/zoo")))
    request = pb.SearchSessionRequest(session=session.name, text="a dog", request_id="r0")
    first, second = await asyncio.gather(a.SearchSession(request), a.SearchSession(request))
    assert first == second
    assert await a.SearchSession(request) == first
    assert len(stack.embedder.searches) == 1


async def test_a_request_id_stands_for_one_content(stub):
    session, first = await new_session(stub)
    await collect(stub.RefineSession(request_for(session, first, request_id="r1")))
    error = await failure_of(refine(stub, session.name, comment="other", request_id="r1"))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONFLICTING_REQUEST_ID")
    search = pb.SearchSessionRequest(session=session.name, text="x", request_id="r1")
    assert (await failure_of(stub.SearchSession(search))).reason == "CONFLICTING_REQUEST_ID"


async def test_the_round_goes_on_without_its_client_and_can_be_reattached_anywhere(stack, database):
    a, _ = await stack.replica(database)
    b, _ = await stack.replica(database)
    session, first = await new_session(a)
    stack.captioner.trouble.delays["between"] = 0.4
    request = request_for(session, first, request_id="r1")
    call = a.RefineSession(request)
    seen = []
    async for event in call:
        seen.append(event)
        if event.WhichOneof("event") == "caption":
            break
    call.cancel()
    again = await collect(b.RefineSession(request))
    assert timings_without_time(again[: len(seen)]) == timings_without_time(seen)
    assert [event.WhichOneof("event") for event in again].count("round") == 1
    assert stack.captioner.trouble.calls.count("Caption") == 1
    assert [event.sequence for event in again] == list(range(1, len(again) + 1))


async def test_two_followers_see_the_same(stack, database):
    a, _ = await stack.replica(database)
    b, _ = await stack.replica(database)
    session, first = await new_session(a)
    stack.captioner.trouble.delays["between"] = 0.1
    request = request_for(session, first, request_id="r1")
    results = await asyncio.gather(*(collect(stub.RefineSession(request)) for stub in (a, b, a, b)))
    assert len({tuple(timings_without_time(events)) for events in results}) == 1
    assert stack.captioner.trouble.calls.count("Caption") == 1


def freeze(orchestrator):
    """Stops the owner's tasks where they are, as SIGSTOP or kill -9 would: nothing is released or written."""

    async def never(*_args, **_kwargs):
        await asyncio.Event().wait()

    async def nothing(*_args, **_kwargs):
        return None

    store = orchestrator.owner._rounds
    for name in ("append", "renew", "commit", "fail"):
        setattr(store, name, never)
    store.release = nothing  # called when the test is over and the tasks are cancelled


async def test_another_replica_finishes_the_round_of_a_dead_owner(stack, database):
    a, dead = await stack.replica(database, lease_s=0.6)
    b, _ = await stack.replica(database, lease_s=0.6)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.3
    request = request_for(session, first, request_id="r1")
    call = a.RefineSession(request)
    seen = []
    async for event in call:
        seen.append(event)
        if event.stage.stage == pb.STAGE_CAPTION and event.stage.phase == pb.StageEvent.PHASE_FINISHED:
            break
    freeze(dead)
    call.cancel()
    events = await collect(b.RefineSession(request))
    assert timings_without_time(events[: len(seen)]) == timings_without_time(seen)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.WhichOneof("event") for event in events].count("round") == 1
    round = events[-1].round
    assert len(round.captions) == 2
    starts = [e.stage.stage for e in events if e.stage.phase == pb.StageEvent.PHASE_STARTED]
    assert starts.count(pb.STAGE_CAPTION) == 1
    assert starts.count(pb.STAGE_EARLY_SEARCH) == 1
    assert stack.captioner.trouble.calls.count("Caption") == 1  # what was stored was used
    assert stack.embedder.trouble.calls.count("GetImageContent") == 2
    stored = await b.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert list(stored.rounds) == [first, round]
    assert timings_without_time(await collect(b.RefineSession(request))) == timings_without_time(events)


async def test_a_follower_takes_over_when_the_owner_dies_under_it(stack, database):
    a, dead = await stack.replica(database, lease_s=0.6)
    b, _ = await stack.replica(database, lease_s=0.6)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.5
    request = request_for(session, first, request_id="r1")
    owner = asyncio.create_task(collect(a.RefineSession(request)))
    await asyncio.sleep(0.2)
    follower = asyncio.create_task(collect(b.RefineSession(request)))
    await asyncio.sleep(0.1)
    freeze(dead)
    events = await asyncio.wait_for(follower, 10)
    assert events[-1].WhichOneof("event") == "round"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    owner.cancel()


async def test_an_owner_that_wakes_up_late_writes_nothing_and_its_client_is_served(stack, database):
    a, frozen = await stack.replica(database, lease_s=0.4)
    b, _ = await stack.replica(database, lease_s=0.4)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.2
    awake = asyncio.Event()
    store = frozen.owner._rounds
    for name in ("append", "renew", "commit", "fail"):
        original = getattr(store, name)

        async def late(*args, original=original, held=name, **kwargs):
            if gate["closed"]:
                await awake.wait()
            return await original(*args, **kwargs)

        setattr(store, name, late)
    gate = {"closed": False}
    request = request_for(session, first, request_id="r1")
    mine = asyncio.create_task(collect(a.RefineSession(request)))
    await asyncio.sleep(0.1)
    gate["closed"] = True
    theirs = await collect(b.RefineSession(request))
    before = await database.command("DUMP", SessionRef(DEFAULT_TENANT, session_id(session.name)).rounds)
    awake.set()
    assert timings_without_time(await asyncio.wait_for(mine, 10)) == timings_without_time(theirs)
    await asyncio.sleep(0.3)
    after = await database.command("DUMP", SessionRef(DEFAULT_TENANT, session_id(session.name)).rounds)
    assert before == after
    assert timings_without_time(await collect(b.RefineSession(request))) == timings_without_time(theirs)


async def test_a_new_request_replaces_a_round_without_owner(stack, database):
    a, dead = await stack.replica(database, lease_s=0.5)
    b, _ = await stack.replica(database, lease_s=0.5)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.3
    call = a.RefineSession(request_for(session, first, request_id="r1"))
    await call.read()
    freeze(dead)
    call.cancel()
    await asyncio.sleep(0.7)
    round = (await refine(b, session.name, comment="other", request_id="r2"))[-1].round
    assert round.index == 1
    stored = await b.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert [r.index for r in stored.rounds] == [0, 1]


async def test_an_orderly_end_gives_the_round_away_at_once(stack, database):
    a, leaving = await stack.replica(database, lease_s=30, drain_s=0.1)
    b, _ = await stack.replica(database, lease_s=30)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 1.0
    request = request_for(session, first, request_id="r1")
    running = asyncio.create_task(collect(a.RefineSession(request)))
    await asyncio.sleep(0.3)
    await leaving.owner.close()
    error = await failure_of(running)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    events = await asyncio.wait_for(collect(b.RefineSession(request)), 10)
    assert events[-1].round.index == 1


async def test_captions_that_were_stored_are_not_made_or_sent_again(stack, database):
    a, dead = await stack.replica(database, lease_s=0.6)
    b, _ = await stack.replica(database, lease_s=0.6)
    session, first = await new_session(a)
    stack.captioner.trouble.delays["between"] = 0.3
    request = request_for(session, first, request_id="r1")
    call = a.RefineSession(request)
    async for event in call:
        if event.WhichOneof("event") == "caption":
            break
    freeze(dead)
    call.cancel()
    events = await collect(b.RefineSession(request))
    keys = [event.caption.key for event in events if event.WhichOneof("event") == "caption"]
    marked = [first.hits[0].image_id, first.hits[1].image_id]
    assert keys == marked
    assert stack.captioner.captioned == [*marked, marked[1]]
    assert [caption.key for caption in events[-1].round.captions] == marked
