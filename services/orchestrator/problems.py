"""The errors of sessions and rounds, each made in one place so that reason, hint and resource are always the same."""

from __future__ import annotations

from collections.abc import Iterable

from services.orchestrator.store.keys import SessionRef
from warmer.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from warmer.names import round_name, session_name

_SHOWN_IDS = 10


def session_not_found(ref: SessionRef) -> NotFound:
    """No such session: it never was, was deleted, or has expired."""
    return NotFound(
        f"there is no session {session_name(ref.id)}: it never was, was deleted or has expired",
        reason="SESSION_NOT_FOUND",
        resource=session_name(ref.id),
        hint="List the sessions, or start a new one.",
    )


def round_not_found(ref: SessionRef, index: int) -> NotFound:
    """The session has no such round."""
    return NotFound(
        f"the session has no round {index}",
        reason="ROUND_NOT_FOUND",
        resource=round_name(ref.id, index),
        hint="List the rounds of the session.",
    )


def session_finished(ref: SessionRef) -> FailedPrecondition:
    """The hunt has ended."""
    return FailedPrecondition(
        "the session is finished",
        reason="SESSION_FINISHED",
        resource=session_name(ref.id),
        hint="Start a new session; parent_round goes on from one of this session's rounds.",
    )


def no_round_yet(ref: SessionRef) -> FailedPrecondition:
    """Feedback needs something that it is about."""
    return FailedPrecondition(
        "the session has no round yet",
        reason="NO_ROUND_YET",
        resource=session_name(ref.id),
        hint="Search first (SearchSession), then refine.",
    )


def round_exists(ref: SessionRef) -> FailedPrecondition:
    """Round 0 is there."""
    return FailedPrecondition(
        "the session has its first round already",
        reason="ROUND_EXISTS",
        resource=session_name(ref.id),
        hint="Refine it (RefineSession), or start a new session for a new search.",
    )


def stale_etag(ref: SessionRef) -> Aborted:
    """The session has changed since the caller read it."""
    return Aborted(
        "the session has changed since its etag was read",
        reason="STALE_ETAG",
        resource=session_name(ref.id),
        hint="Read the session and its last round again, and decide again.",
    )


def round_in_progress(ref: SessionRef, retry_after_s: float) -> Aborted:
    """Another request's round is running."""
    return Aborted(
        "another request's round is running in this session",
        reason="ROUND_IN_PROGRESS",
        resource=session_name(ref.id),
        retry_after_s=retry_after_s,
        hint="Wait for it to end, or repeat it with its own request_id to follow it.",
    )


def round_abandoned(ref: SessionRef) -> Aborted:
    """The round's owner was silent, and another request began."""
    return Aborted(
        "the round was given up: its owner fell silent and another request took the session",
        reason="ROUND_ABANDONED",
        resource=session_name(ref.id),
        hint="Read the session and its last round again, and decide again.",
    )


def conflicting_request_id(request_id: str) -> InvalidArgument:
    """A request id stands for one request."""
    return InvalidArgument(
        f"the request id {request_id!r} was used for a request with other content",
        reason="CONFLICTING_REQUEST_ID",
        field="request_id",
        hint="Use a new request id for each new request, and the same one only to repeat it.",
    )


def not_streamed(ref: SessionRef, ids: Iterable[str], field: str) -> InvalidArgument:
    """Only what the person can have seen can be marked."""
    missing = list(ids)
    return InvalidArgument(
        f"never streamed in this session: {_listed(missing)}",
        reason="IMAGE_NOT_STREAMED",
        field=field,
        resource=session_name(ref.id),
        hint="Mark only images that were among the hits of this session.",
        metadata={"image_ids": ",".join(missing[:_SHOWN_IDS])},
    )


def _listed(ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(map(repr, ids[:_SHOWN_IDS])) + more
