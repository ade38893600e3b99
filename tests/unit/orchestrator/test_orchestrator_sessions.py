"""Sessions as resources: made, listed, changed, branched, finished, expired."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from orchestrator_peers import new_session, refine

from warmer.errors import from_rpc_error
from warmer.v1 import orchestrator_pb2 as pb

ZOO = "collections/zoo"
Code = grpc.StatusCode


async def failure_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def create(stub, session_id="", request_id="", **fields):
    fields.setdefault("collection", ZOO)
    return await stub.CreateSession(
        pb.CreateSessionRequest(session=pb.Session(**fields), session_id=session_id, request_id=request_id)
    )


async def listed(stub, size=0):
    sessions, token = [], ""
    while True:
        page = await stub.ListSessions(pb.ListSessionsRequest(page_size=size, page_token=token))
        sessions += page.sessions
        token = page.next_page_token
        if not token:
            return sessions


async def test_create_fills_in_the_defaults_and_get_gives_the_same(stub):
    session = await create(stub)
    assert (session.page_size, session.strategy, session.state) == (10, pb.STRATEGY_REWRITE, pb.Session.STATE_ACTIVE)
    assert session.ttl.seconds == 604_800
    assert session.create_time == session.update_time
    assert session.expire_time.ToMilliseconds() - session.create_time.ToMilliseconds() == 604_800_000
    assert await stub.GetSession(pb.GetSessionRequest(name=session.name)) == session


async def test_create_takes_the_callers_choices(stub):
    session = await create(
        stub, "mine", strategy=pb.STRATEGY_PREFERENCE, page_size=7, display_name="my hunt", ttl=Duration(seconds=60)
    )
    assert session.name == "sessions/mine"
    assert (session.page_size, session.strategy, session.display_name) == (7, pb.STRATEGY_PREFERENCE, "my hunt")
    assert session.ttl.seconds == 60


async def test_a_taken_id_is_refused(stub):
    await create(stub, "mine")
    error = await failure_of(create(stub, "mine"))
    assert (error.code, error.reason) == (Code.ALREADY_EXISTS, "SESSION_EXISTS")


async def test_a_repeated_create_gives_the_same_session(stub):
    first, second = await asyncio.gather(create(stub, request_id="c1"), create(stub, request_id="c1"))
    assert first == second
    assert len(await listed(stub)) == 1
    assert (await failure_of(create(stub, request_id="c1", page_size=3))).reason == "CONFLICTING_REQUEST_ID"
    await stub.DeleteSession(pb.DeleteSessionRequest(name=first.name))
    assert (await failure_of(create(stub, request_id="c1"))).reason == "SESSION_NOT_FOUND"


async def test_list_is_newest_first_in_pages(stub):
    names = [(await create(stub, f"s{i}")).name for i in range(7)]
    assert [s.name for s in await listed(stub, size=3)] == names[::-1]
    page = await stub.ListSessions(pb.ListSessionsRequest(page_size=7))
    assert not page.next_page_token
    await stub.DeleteSession(pb.DeleteSessionRequest(name=names[3]))
    assert [s.name for s in await listed(stub, size=2)] == [n for n in names[::-1] if n != names[3]]


async def test_expired_sessions_are_gone_and_leave_the_list(stub, database):
    short = await create(stub, "short", ttl=Duration(seconds=1))
    await create(stub, "long")
    await stub.SearchSession(pb.SearchSessionRequest(session=short.name, text="dog"))
    assert await database.command("PTTL", "warmer:{default:short}:rounds") > 0
    await asyncio.sleep(1.2)
    error = await failure_of(stub.GetSession(pb.GetSessionRequest(name=short.name)))
    assert (error.code, error.reason) == (Code.NOT_FOUND, "SESSION_NOT_FOUND")
    assert (await failure_of(refine(stub, short.name))).reason == "SESSION_NOT_FOUND"
    assert [s.name for s in await listed(stub)] == ["sessions/long"]
    assert await database.command("ZCARD", "warmer:{default}:sessions") == 1
    assert await database.command("KEYS", "*short*") == []


async def test_each_change_moves_the_expiry(stub):
    session = await create(stub, "s", ttl=Duration(seconds=2))
    await stub.SearchSession(pb.SearchSessionRequest(session=session.name, text="dog"))
    for _ in range(3):
        await asyncio.sleep(0.9)
        await refine(stub, session.name)
    rounds = await stub.ListRounds(pb.ListRoundsRequest(session=session.name))
    assert len(rounds.rounds) == 4
    again = await stub.GetSession(pb.GetSessionRequest(name=session.name))
    assert again.expire_time.ToMilliseconds() > session.expire_time.ToMilliseconds() + 2_000


async def test_new_sessions_clear_away_expired_ones(stub, database):
    for i in range(6):
        await create(stub, f"s{i}", ttl=Duration(seconds=1))
    await asyncio.sleep(1.1)
    for i in range(4):
        await create(stub, f"t{i}")
    assert await database.command("ZCARD", "warmer:{default}:sessions") == 4


async def test_update_by_mask(stub):
    session = await create(stub, display_name="old", page_size=5)
    change = pb.Session(name=session.name, display_name="new", page_size=9)
    request = pb.UpdateSessionRequest(session=change, update_mask=FieldMask(paths=["display_name"]))
    updated = await stub.UpdateSession(request)
    assert (updated.display_name, updated.page_size) == ("new", 5)
    assert updated.etag != session.etag
    updated = await stub.UpdateSession(pb.UpdateSessionRequest(session=change))
    assert updated.page_size == 9
    reset = pb.UpdateSessionRequest(
        session=pb.Session(name=session.name), update_mask=FieldMask(paths=["display_name", "page_size"])
    )
    updated = await stub.UpdateSession(reset)
    assert (updated.display_name, updated.page_size) == ("", 10)
    ttl = pb.Session(name=session.name, ttl=Duration(seconds=90))
    updated = await stub.UpdateSession(pb.UpdateSessionRequest(session=ttl))
    assert updated.expire_time.ToMilliseconds() - updated.update_time.ToMilliseconds() == 90_000


async def test_update_refuses_what_cannot_be_changed(stub):
    session = await create(stub)
    for path in ("collection", "state", "nonsense", "ttl_ms"):
        request = pb.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=[path]))
        error = await failure_of(stub.UpdateSession(request))
        assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_FIELD_MASK")


async def test_finish_with_a_find_and_again(stub):
    session, first = await new_session(stub)
    found = first.hits[2].image_id
    request = pb.FinishSessionRequest(session=session.name, found_image_id=found, etag=first.etag)
    done = await stub.FinishSession(request)
    assert (done.state, done.found_image_id) == (pb.Session.STATE_FINISHED, found)
    assert await stub.FinishSession(request) == done
    other = pb.FinishSessionRequest(session=session.name)
    for call in (
        stub.FinishSession(other),
        refine(stub, session.name, comment="more"),
        stub.SearchSession(pb.SearchSessionRequest(session=session.name, text="x")),
    ):
        error = await failure_of(call)
        assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "SESSION_FINISHED")
    assert len((await stub.ListRounds(pb.ListRoundsRequest(session=session.name))).rounds) == 1


async def test_rounds_in_pages(stub):
    session, first = await new_session(stub, strategy=pb.STRATEGY_PREFERENCE)
    rounds = [first, *[(await refine(stub, session.name))[-1].round for _ in range(4)]]
    got, token = [], ""
    while True:
        page = await stub.ListRounds(pb.ListRoundsRequest(session=session.name, page_size=2, page_token=token))
        got += page.rounds
        token = page.next_page_token
        if not token:
            break
    assert got == rounds
    whole = await stub.ListRounds(pb.ListRoundsRequest(session=session.name, page_size=5))
    assert not whole.next_page_token


async def test_a_branch_goes_on_from_an_earlier_round(stub):
    session, first = await new_session(stub, strategy=pb.STRATEGY_PREFERENCE, page_size=6)
    second = (await refine(stub, session.name, relevant=[first.hits[1].image_id], comment="snow"))[-1].round
    await refine(stub, session.name, comment="a wrong turn")
    request = pb.CreateSessionRequest(session=pb.Session(parent_round=second.name, page_size=4), session_id="branch")
    branch = await stub.CreateSession(request)
    assert (branch.collection, branch.page_size, branch.round_count) == (ZOO, 4, 2)
    assert (branch.strategy, branch.parent_round) == (pb.STRATEGY_PREFERENCE, second.name)
    copies = (await stub.ListRounds(pb.ListRoundsRequest(session=branch.name))).rounds
    assert [copy.name for copy in copies] == ["sessions/branch/rounds/0", "sessions/branch/rounds/1"]
    assert [list(copy.hits) for copy in copies] == [list(first.hits), list(second.hits)]
    assert copies[1].etag == branch.etag
    events = await refine(stub, branch.name, relevant=[second.hits[0].image_id], etag=branch.etag)
    round = events[-1].round
    assert (round.index, round.query, len(round.hits)) == (2, "a dog on grass, snow", 4)
    assert set(round.search.excluded_image_ids) == {hit.image_id for hit in [*first.hits, *second.hits]}
    assert len(round.search.preferences) == 2
    assert (await stub.GetSession(pb.GetSessionRequest(name=session.name))).round_count == 3


async def test_branching_needs_a_round_that_is_there(stub):
    session, _ = await new_session(stub)
    cases = {
        f"{session.name}/rounds/1": "ROUND_NOT_FOUND",
        "sessions/nobody/rounds/0": "SESSION_NOT_FOUND",
        "sessions/x": "BAD_ID",
    }
    for parent, reason in cases.items():
        assert (await failure_of(create(stub, parent_round=parent))).reason == reason
    other = create(stub, parent_round=f"{session.name}/rounds/0", collection="collections/other")
    assert (await failure_of(other)).reason == "COLLECTION_DIFFERS"


async def test_a_session_made_anew_has_another_etag(stub):
    first = await create(stub, "s")
    await stub.DeleteSession(pb.DeleteSessionRequest(name=first.name))
    assert (await create(stub, "s")).etag != first.etag
