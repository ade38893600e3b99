"""Every bad input is a documented status with a reason, and nothing that is stored is lost."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
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


async def test_stale_etags_are_refused_everywhere(stub):
    session, first = await new_session(stub)
    stale = session.etag
    name = session.name
    calls = [
        stub.UpdateSession(pb.UpdateSessionRequest(session=pb.Session(name=name, page_size=3, etag=stale))),
        stub.DeleteSession(pb.DeleteSessionRequest(name=name, etag=stale)),
        stub.FinishSession(pb.FinishSessionRequest(session=name, etag=stale)),
        refine(stub, name, comment="x", etag=stale),
    ]
    for call in calls:
        error = await failure_of(call)
        assert (error.code, error.reason) == (Code.ABORTED, "STALE_ETAG")
        assert error.hint
    assert (await stub.GetSession(pb.GetSessionRequest(name=name))).etag == first.etag
    fresh = pb.DeleteSessionRequest(name=name, etag=first.etag)
    await stub.DeleteSession(fresh)
    assert (await failure_of(stub.DeleteSession(fresh))).code is Code.NOT_FOUND


async def test_finish_only_with_an_image_that_was_streamed(stub, stack):
    session, first = await new_session(stub)
    never = next(id for id in stack.embedder.ids if id not in {hit.image_id for hit in first.hits})
    error = await failure_of(stub.FinishSession(pb.FinishSessionRequest(session=session.name, found_image_id=never)))
    assert error.reason == "IMAGE_NOT_STREAMED"
    assert never in error.message
    done = await stub.FinishSession(pb.FinishSessionRequest(session=session.name))
    assert (done.state, done.found_image_id) == (pb.Session.STATE_FINISHED, "")


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"collection": "collections/none"}, Code.NOT_FOUND, "COLLECTION_NOT_FOUND"),
        ({"collection": "collections/old"}, Code.FAILED_PRECONDITION, "MODEL_MISMATCH"),
        ({"collection": "zoo"}, Code.INVALID_ARGUMENT, "BAD_ID"),
        ({"collection": ""}, Code.INVALID_ARGUMENT, "NO_COLLECTION"),
        ({"page_size": 1001}, Code.INVALID_ARGUMENT, "BAD_PAGE_SIZE"),
        ({"page_size": 4_000_000_000}, Code.INVALID_ARGUMENT, "BAD_PAGE_SIZE"),
        ({"strategy": 99}, Code.INVALID_ARGUMENT, "BAD_STRATEGY"),
        ({"ttl": Duration(seconds=0)}, Code.INVALID_ARGUMENT, "BAD_TTL"),
        ({"ttl": Duration(seconds=-5)}, Code.INVALID_ARGUMENT, "BAD_TTL"),
        ({"ttl": Duration(seconds=10**10)}, Code.INVALID_ARGUMENT, "BAD_TTL"),
        ({"display_name": "x" * 201}, Code.INVALID_ARGUMENT, "DISPLAY_NAME_TOO_LONG"),
        ({"session_id": "Not/OK"}, Code.INVALID_ARGUMENT, "BAD_ID"),
        ({"request_id": "r" * 200}, Code.INVALID_ARGUMENT, "BAD_REQUEST_ID"),
        ({"request_id": "a\nb"}, Code.INVALID_ARGUMENT, "BAD_REQUEST_ID"),
    ],
)
async def test_bad_sessions_are_refused(stub, fields, code, reason):
    error = await failure_of(create(stub, **fields))
    assert (error.code, error.reason) == (code, reason)
    assert error.message
    assert await listed(stub) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": ""}, "EMPTY_QUERY"),
        ({"text": " \t\n\u0000 "}, "EMPTY_QUERY"),
        ({"text": "x" * 10_001}, "QUERY_TOO_LONG"),
        ({"text": "dog", "image": b""}, "EMPTY_FILE"),
        ({"image": b"plain text"}, "NOT_AN_IMAGE"),
        ({"image_id": ""}, "BAD_ID"),
        ({"image_id": "a/b"}, "BAD_ID"),
        ({"image_id": "nobody.jpg"}, "IMAGE_NOT_FOUND"),
        ({"text": "dog", "session": "sessions/nobody"}, "SESSION_NOT_FOUND"),
        ({"text": "dog", "session": "nobody"}, "BAD_ID"),
        ({"text": "dog", "etag": "old"}, "STALE_ETAG"),
    ],
)
async def test_bad_searches_store_nothing(stub, fields, reason):
    session = await create(stub)
    fields = {"session": session.name, **fields}
    assert (await failure_of(stub.SearchSession(pb.SearchSessionRequest(**fields)))).reason == reason
    after = await stub.GetSession(pb.GetSessionRequest(name=session.name))
    assert (after.round_count, after.etag) == (0, session.etag)
    assert (await stub.SearchSession(pb.SearchSessionRequest(session=session.name, text="a dog"))).hits


async def test_one_first_round_only(stub):
    session, _ = await new_session(stub)
    error = await failure_of(stub.SearchSession(pb.SearchSessionRequest(session=session.name, text="again")))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "ROUND_EXISTS")


async def test_feedback_needs_a_round(stub):
    session = await create(stub)
    error = await failure_of(refine(stub, session.name, comment="x"))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "NO_ROUND_YET")


async def test_feedback_on_images_that_were_never_streamed(stub, stack):
    session, first = await new_session(stub)
    never = [id for id in stack.embedder.ids if id not in {hit.image_id for hit in first.hits}][:2]
    for fields, field in (
        ({"relevant": [first.hits[0].image_id, *never]}, "feedback.relevant_image_ids"),
        ({"irrelevant": never}, "feedback.irrelevant_image_ids"),
        ({"displayed_image_ids": never}, "displayed_image_ids"),
        ({"relevant": ["a/b"]}, "feedback.relevant_image_ids"),
    ):
        error = await failure_of(refine(stub, session.name, **fields))
        assert (error.code, error.reason, error.field) == (Code.INVALID_ARGUMENT, "IMAGE_NOT_STREAMED", field)
    assert never[0] in (await failure_of(refine(stub, session.name, relevant=never))).message
    assert (await stub.GetSession(pb.GetSessionRequest(name=session.name))).etag == first.etag


async def test_other_bad_feedback(stub):
    session, first = await new_session(stub)
    id = first.hits[0].image_id
    error = await failure_of(refine(stub, session.name, relevant=[id], irrelevant=[id]))
    assert (error.reason, id in error.message) == ("CONFLICTING_MARKS", True)
    assert (await failure_of(refine(stub, session.name, comment="x" * 2_001))).reason == "COMMENT_TOO_LONG"
    many = [f"i{i}" for i in range(1_001)]
    assert (await failure_of(refine(stub, session.name, relevant=many))).reason == "TOO_MANY_MARKS"
    many = [f"i{i}" for i in range(10_001)]
    assert (await failure_of(refine(stub, session.name, displayed_image_ids=many))).reason == "TOO_MANY_DISPLAYED"
    round = (await refine(stub, session.name, relevant=[id, id], displayed_image_ids=[id, id]))[-1].round
    assert list(round.feedback.relevant_image_ids) == [id]
    assert list(round.displayed_image_ids) == [id]


@pytest.mark.parametrize("token", ["x", "!!!", "AAAA", "cm91bmQ6LTE", "é"])
async def test_bad_page_tokens(stub, token):
    session = await create(stub)
    for call in (
        stub.ListSessions(pb.ListSessionsRequest(page_token=token)),
        stub.ListRounds(pb.ListRoundsRequest(session=session.name, page_token=token)),
    ):
        error = await failure_of(call)
        assert (error.code, error.reason) == (Code.INVALID_ARGUMENT, "BAD_PAGE_TOKEN")
    assert (await failure_of(stub.ListSessions(pb.ListSessionsRequest(page_size=-1)))).reason == "BAD_PAGE_SIZE"
