from __future__ import annotations

import pickle

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from warmer import errors

KINDS = [errors.WarmerError, *errors.WarmerError.__subclasses__()]
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


def test_every_code_has_exactly_one_class() -> None:
    assert sorted(kind.code.name for kind in KINDS) == sorted(code.name for code in CODES)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_keeps_everything(kind: type[errors.WarmerError]) -> None:
    error = kind(
        "no such thing",
        reason="THING_NOT_FOUND",
        hint="Make one.",
        field="a.b",
        resource="collections/x",
        retry_after_s=1.25,
        metadata={"limit": "3"},
    )
    back = errors.from_status(errors.to_status(error))
    assert type(back) is kind
    assert vars(back) == vars(error)


@given(texts, texts, texts, st.dictionaries(texts.filter(lambda key: key != "hint"), texts, max_size=3))
def test_round_trip_of_any_text(message: str, hint: str, resource: str, metadata: dict[str, str]) -> None:
    error = errors.NotFound(message or "m", reason="R", hint=hint, resource=resource, metadata=metadata)
    assert vars(errors.from_status(errors.to_status(error))) == vars(error)


def test_ok_is_no_error() -> None:
    assert errors.from_status(Status()) is None


def test_details_are_those_of_the_design() -> None:
    error = errors.InvalidArgument("bad", reason="BAD", hint="h", field="f", resource="r", retry_after_s=2.999999999)
    status = errors.to_status(error)
    info, bad, resource, retry = ErrorInfo(), BadRequest(), ResourceInfo(), RetryInfo()
    for detail, message in zip(status.details, (info, bad, resource, retry), strict=True):
        assert detail.Unpack(message)
    assert (info.reason, info.domain, dict(info.metadata)) == ("BAD", "warmer", {"hint": "h"})
    assert bad.field_violations[0].field == "f"
    assert resource.resource_name == "r"
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (2, 999_999_999)


def test_only_error_info_when_there_is_nothing_else() -> None:
    assert len(errors.to_status(errors.Internal("oops", reason="INTERNAL")).details) == 1


def test_retry_delay_rounds_up_to_a_whole_second() -> None:
    error = errors.ResourceExhausted("full", reason="QUEUE_FULL", retry_after_s=0.9999999999)
    back = errors.from_status(errors.to_status(error))
    assert back is not None
    assert back.retry_after_s == 1.0


def test_foreign_status_without_details() -> None:
    back = errors.from_status(Status(code=5, message="gone"))
    assert isinstance(back, errors.NotFound)
    assert (back.message, back.reason, back.hint) == ("gone", "NOT_FOUND", "")


def test_unknown_code_and_unknown_details_do_not_break() -> None:
    status = Status(code=999, message="?", details=[AnyMessage(type_url="type.googleapis.com/x.Y", value=b"\xff")])
    assert type(errors.from_status(status)) is errors.WarmerError


def test_text_says_message_and_hint_once() -> None:
    assert str(errors.NotFound("gone.", reason="X", hint="Look elsewhere.")) == "gone. Look elsewhere."
    assert str(errors.NotFound("gone", reason="X")) == "gone"
    assert repr(errors.NotFound("gone", reason="X")) == "NotFound('gone', reason='X')"


def test_survives_pickling_between_processes() -> None:
    error = errors.InvalidArgument("bad", reason="DAMAGED_IMAGE", hint="h", metadata={"a": "b"}, retry_after_s=1.0)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


class _Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str, trailing: object) -> None:
        self._parts = (code, details, trailing)

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> object:
        return self._parts[2]


@pytest.mark.parametrize("code", CODES)
def test_plain_rpc_error_maps_by_code(code: grpc.StatusCode) -> None:
    error = errors.from_rpc_error(_Failure(code, "words", None))
    assert error.code is code
    assert (error.message, error.reason) == ("words", code.name)


def test_unavailable_says_what_to_do() -> None:
    assert "warmer up" in errors.from_rpc_error(_Failure(grpc.StatusCode.UNAVAILABLE, "refused", ())).hint


def test_details_in_trailing_metadata_win() -> None:
    inner = errors.NotFound("no such", reason="COLLECTION_NOT_FOUND", hint="h")
    trailing = (("other", "x"), (errors.STATUS_DETAILS_KEY, errors.to_status(inner).SerializeToString()))
    error = errors.from_rpc_error(_Failure(grpc.StatusCode.NOT_FOUND, "no such", trailing))
    assert vars(error) == vars(inner)


@pytest.mark.parametrize("value", [b"\xff\xff not a status", Status(code=3, message="other").SerializeToString()])
def test_damaged_or_contradicting_details_are_left_out(value: bytes) -> None:
    trailing = ((errors.STATUS_DETAILS_KEY, value),)
    error = errors.from_rpc_error(_Failure(grpc.StatusCode.NOT_FOUND, "gone", trailing))
    assert isinstance(error, errors.NotFound)
    assert error.reason == "NOT_FOUND"


def test_bare_rpc_error() -> None:
    assert type(errors.from_rpc_error(grpc.RpcError())) is errors.WarmerError
