"""The orchestrator's request messages from plain arguments, for both clients; see :mod:`warmer._requests`."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.field_mask_pb2 import FieldMask

from warmer._requests import UINT32, built, ids, new_request_id, within
from warmer.errors import InvalidArgument
from warmer.names import check_image_id, collection_name, round_name, session_name
from warmer.types._convert import duration
from warmer.v1 import orchestrator_pb2

_STRATEGIES: dict[str, orchestrator_pb2.Strategy.ValueType] = {
    "rewrite": orchestrator_pb2.STRATEGY_REWRITE,
    "rocchio": orchestrator_pb2.STRATEGY_ROCCHIO,
    "preference": orchestrator_pb2.STRATEGY_PREFERENCE,
    "fused": orchestrator_pb2.STRATEGY_FUSED,
}


def session_fields(
    *, strategy: str | None, page_size: int | None, display_name: str | None, ttl_s: float | None
) -> tuple[orchestrator_pb2.Session, list[str]]:
    """A session message with what can be chosen, and the names of the fields that were."""
    given = {"strategy": strategy, "page_size": page_size, "display_name": display_name, "ttl": ttl_s}
    session = orchestrator_pb2.Session(
        strategy=strategy_number(strategy),
        page_size=within(page_size or 0, UINT32, "page_size"),
        display_name=display_name or "",
    )
    if ttl_s is not None:
        session.ttl.CopyFrom(duration(ttl_s))
    return session, [name for name, value in given.items() if value is not None]


def create_session(
    session: orchestrator_pb2.Session,
    *,
    collection: str | None,
    parent_round: tuple[str, int] | None,
    id: str | None,
    request_id: str | None,
) -> orchestrator_pb2.CreateSessionRequest:
    """Request of CreateSession."""
    if collection is None and parent_round is None:
        raise InvalidArgument(
            "a session needs a collection or a round to start from",
            reason="MISSING_COLLECTION",
            field="session.collection",
            hint="Give collection, or parent_round=(session, round).",
        )
    if collection is not None:
        session.collection = collection_name(collection)
    if parent_round is not None:
        session.parent_round = round_name(*parent_round)
    if id is not None:
        session_name(id)
    return orchestrator_pb2.CreateSessionRequest(
        session=session, session_id=id or "", request_id=request_id or new_request_id()
    )


def update_session(
    id: str, session: orchestrator_pb2.Session, paths: list[str], etag: str | None
) -> orchestrator_pb2.UpdateSessionRequest:
    """Request of UpdateSession."""
    session.name = session_name(id)
    session.etag = etag or ""
    return orchestrator_pb2.UpdateSessionRequest(session=session, update_mask=FieldMask(paths=paths))


def search_session(
    id: str, *, text: str, image: bytes | None, image_id: str | None, request_id: str | None, etag: str | None
) -> orchestrator_pb2.SearchSessionRequest:
    """Request of SearchSession."""
    if image is not None and image_id is not None:
        raise InvalidArgument(
            "two example images", reason="TWO_EXAMPLES", field="image", hint="Give image or image_id, not both."
        )
    request = built(
        lambda: orchestrator_pb2.SearchSessionRequest(
            session=session_name(id), text=text, request_id=request_id or new_request_id(), etag=etag or ""
        )
    )
    if image is not None:
        request.image = image
    if image_id is not None:
        request.image_id = check_image_id(image_id)
    return request


def refine_session(
    id: str,
    *,
    relevant: str | Iterable[str],
    irrelevant: str | Iterable[str],
    comment: str,
    displayed: Iterable[str] | None,
    request_id: str | None,
    etag: str | None,
) -> orchestrator_pb2.RefineSessionRequest:
    """Request of RefineSession; always with a request id, so that it can be re-attached."""
    shown = None if displayed is None else ids(displayed)
    if shown == ():
        raise InvalidArgument(
            "no image was displayed",
            reason="EMPTY_DISPLAYED",
            field="displayed_image_ids",
            hint="Leave displayed out if the whole page was seen.",
        )
    return built(
        lambda: orchestrator_pb2.RefineSessionRequest(
            session=session_name(id),
            feedback=orchestrator_pb2.Feedback(
                relevant_image_ids=ids(relevant), irrelevant_image_ids=ids(irrelevant), comment=comment
            ),
            displayed_image_ids=shown or (),
            request_id=request_id or new_request_id(),
            etag=etag or "",
        )
    )


def strategy_number(strategy: str | None) -> orchestrator_pb2.Strategy.ValueType:
    """The enum value of a strategy's name; unset for None."""
    if strategy is None:
        return orchestrator_pb2.STRATEGY_UNSPECIFIED
    if strategy not in _STRATEGIES:
        raise InvalidArgument(
            f"{strategy!r} is not a strategy",
            reason="BAD_STRATEGY",
            field="strategy",
            hint=f"Use one of: {', '.join(_STRATEGIES)}.",
        )
    return _STRATEGIES[strategy]


def finish_session(id: str, found: str, etag: str | None) -> orchestrator_pb2.FinishSessionRequest:
    """Request of FinishSession."""
    return orchestrator_pb2.FinishSessionRequest(
        session=session_name(id), found_image_id=check_image_id(found) if found else "", etag=etag or ""
    )
