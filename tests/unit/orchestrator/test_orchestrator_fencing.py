"""Who may write a session while a round runs: leases, fences, repeated writes, races, and changes in mid-round."""

from __future__ import annotations

import asyncio
import secrets

import grpc
import pytest
from orchestrator_peers import new_session, refine

from services.orchestrator.store.keys import DEFAULT_TENANT, SessionRef
from services.orchestrator.store.rounds import Busy, Lease, LeaseLostError, RoundStore
from services.orchestrator.store.sessions import SessionStore
from warmer.errors import from_rpc_error
from warmer.names import session_id
from warmer.v1 import orchestrator_pb2 as pb


def request_for(session, first, **fields):
    feedback = pb.Feedback(relevant_image_ids=[first.hits[0].image_id, first.hits[1].image_id], comment="on snow")
    return pb.RefineSessionRequest(session=session.name, feedback=feedback, **fields)


async def collect(call):
    return [event async for event in call]


async def failure_of(awaitable):
    with pytest.raises(grpc.RpcError) as caught:
        await awaitable
    return from_rpc_error(caught.value)


async def begin(rounds: RoundStore, session, request_id="r", events=(b"first",)):
    return await rounds.begin(
        session, request_id, digest="d", owner=secrets.token_hex(4), replaces_with=b"", events=list(events)
    )


async def test_every_late_write_of_a_stale_owner_is_refused(stack, database):
    stub, _ = await stack.replica(database)
    made, _ = await new_session(stub)
    sessions, rounds = SessionStore(database), RoundStore(database, lease_s=0.05)
    ref = SessionRef(DEFAULT_TENANT, session_id(made.name))
    record = (await sessions.load(ref)).session
    stale = await begin(rounds, record)
    assert isinstance(stale, Lease)
    await asyncio.sleep(0.1)
    fresh = await RoundStore(database, lease_s=60).claim(ref, "r", "new owner")
    assert isinstance(fresh, Lease)
    assert fresh.fence != stale.fence
    dumps = [await database.command("DUMP", key) for key in ref.keys]
    for write in (
        rounds.append(stale, 1, [b"late"], partial=b"late", streamed={"x": "y"}),
        rounds.renew(stale),
        rounds.fail(stale, b"late"),
        rounds.commit(stale, record.version, 1, 1, b"late", streamed={"x": "y"}, events=[b"late"]),
    ):
        with pytest.raises(LeaseLostError):
            await write
    await rounds.release(stale)
    assert [await database.command("DUMP", key) for key in ref.keys] == dumps
    assert await rounds.commit(fresh, record.version, 1, 1, b"good", streamed={}, events=[])


async def test_writes_that_run_twice_count_once(stack, database):
    """As when the connection breaks after a script ran and before its answer came."""
    stub, _ = await stack.replica(database)
    made, _ = await new_session(stub)
    sessions, rounds = SessionStore(database), RoundStore(database, lease_s=60)
    ref = SessionRef(DEFAULT_TENANT, session_id(made.name))
    record = (await sessions.load(ref)).session
    owner = {"digest": "d", "owner": "me", "replaces_with": b"", "events": [b"first"]}
    lease = await rounds.begin(record, "r", **owner)
    assert await rounds.begin(record, "r", **owner) == lease
    assert await rounds.claim(ref, "r", "other") == Busy(pytest.approx(60, abs=1))
    for _ in range(2):
        await rounds.append(lease, 1, [b"second", b"third"])
    assert [e.data for e in await rounds.events(ref, lease.attempt, 0)] == [b"first", b"second", b"third"]
    for _ in range(2):
        assert await rounds.commit(lease, record.version, 3, 1, b"round", streamed={}, events=[b"fourth"])
    assert len(await sessions.rounds(ref, 0, 9)) == 2
    after = (await sessions.load(ref)).session
    assert (after.version, after.round_count) == (record.version + 1, 2)
    assert [e.kind for e in await rounds.events(ref, lease.attempt, 3)] == ["event", "round"]


async def test_another_request_has_to_wait_for_a_living_owner(stack, database):
    a, _ = await stack.replica(database)
    b, _ = await stack.replica(database)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.6
    running = asyncio.create_task(collect(a.RefineSession(request_for(session, first, request_id="r1"))))
    await asyncio.sleep(0.2)
    error = await failure_of(refine(b, session.name, comment="other", request_id="r2"))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "ROUND_IN_PROGRESS")
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 1
    assert (await running)[-1].round.index == 1
    assert (await refine(b, session.name, comment="other", request_id="r2"))[-1].round.index == 2


async def test_of_two_that_race_with_one_etag_one_wins(stack, database):
    a, _ = await stack.replica(database)
    b, _ = await stack.replica(database)
    session, first = await new_session(a)

    async def one(stub, number):
        try:
            return (await refine(stub, session.name, comment=f"word {number}", etag=first.etag))[-1].round
        except grpc.RpcError as error:
            return from_rpc_error(error).reason

    results = await asyncio.gather(*(one(stub, i) for i, stub in enumerate((a, b) * 4)))
    rounds = [result for result in results if isinstance(result, pb.Round)]
    assert len(rounds) == 1
    assert {result for result in results if isinstance(result, str)} <= {"ROUND_IN_PROGRESS", "STALE_ETAG"}
    assert (await a.GetSession(pb.GetSessionRequest(name=session.name))).round_count == 2


async def test_finishing_ends_a_running_round(stack, database):
    a, _ = await stack.replica(database)
    b, _ = await stack.replica(database)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.5
    running = asyncio.create_task(collect(a.RefineSession(request_for(session, first, request_id="r1"))))
    await asyncio.sleep(0.2)
    found = first.hits[4].image_id
    done = await b.FinishSession(pb.FinishSessionRequest(session=session.name, found_image_id=found))
    assert done.state == pb.Session.STATE_FINISHED
    assert (await failure_of(running)).reason == "SESSION_FINISHED"
    assert (await a.GetSession(pb.GetSessionRequest(name=session.name))).round_count == 1


async def test_deleting_ends_a_running_round(stack, database):
    a, _ = await stack.replica(database)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.5
    running = asyncio.create_task(collect(a.RefineSession(request_for(session, first, request_id="r1"))))
    await asyncio.sleep(0.2)
    await a.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    assert (await failure_of(running)).reason == "SESSION_NOT_FOUND"
    assert await database.command("KEYS", "*:session") == []


async def test_renaming_in_mid_round_is_kept_and_the_round_has_the_right_etag(stack, database):
    a, _ = await stack.replica(database)
    session, first = await new_session(a)
    stack.rewriter.trouble.delays["Rewrite"] = 0.4
    running = asyncio.create_task(collect(a.RefineSession(request_for(session, first, request_id="r1"))))
    await asyncio.sleep(0.2)
    await a.UpdateSession(pb.UpdateSessionRequest(session=pb.Session(name=session.name, display_name="beach")))
    round = (await running)[-1].round
    now = await a.GetSession(pb.GetSessionRequest(name=session.name))
    assert (now.display_name, now.etag, now.round_count) == ("beach", round.etag, 2)


async def test_a_round_begins_only_from_the_state_that_was_read(stack, database):
    stub, _ = await stack.replica(database)
    made, _ = await new_session(stub)
    sessions, rounds = SessionStore(database), RoundStore(database, lease_s=60)
    old = (await sessions.load(SessionRef(DEFAULT_TENANT, session_id(made.name)))).session
    new = await sessions.update(old, {"page_size": 3})
    assert await begin(rounds, old) is None
    lease = await begin(rounds, new)
    assert isinstance(lease, Lease)
    assert not await rounds.commit(lease, old.version, 1, 1, b"late", streamed={}, events=[])
    for sequence, index in ((1, 5), (1, 0), (9, 1)):
        with pytest.raises(LeaseLostError):
            await rounds.commit(lease, new.version, sequence, index, b"wrong", streamed={}, events=[])
    assert len(await sessions.rounds(old.ref, 0, 9)) == 1
