"""Checks of what callers send, before anything is read or changed. Every function raises InvalidArgument."""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import unicodedata
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from services.orchestrator import options as limits
from services.orchestrator.store.sessions import bad_page_token
from services.orchestrator.strategies import MAX_QUERY_CHARS, Turn, merged
from warmer.errors import InvalidArgument
from warmer.v1 import orchestrator_pb2 as pb

_LIST_DEFAULT, _LIST_MOST = 100, 1_000


def clean_text(text: str, *, field: str, most: int, reason: str) -> str:
    """The text without control characters and with single spaces; at most `most` characters as sent."""
    if len(text) > most:
        raise InvalidArgument(
            f"{field} has {len(text)} characters",
            reason=reason,
            field=field,
            hint=f"Use at most {most:,}.",
        )
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def query_text(request: pb.SearchSessionRequest) -> str:
    """The text of round 0; empty only when there is an example image."""
    text = clean_text(request.text, field="text", most=MAX_QUERY_CHARS, reason="QUERY_TOO_LONG")
    has_example = request.WhichOneof("example") is not None
    if not text and not has_example:
        raise InvalidArgument(
            "the query is empty",
            reason="EMPTY_QUERY",
            field="text",
            hint="Say in a few words what is in the photo, or give an example image.",
        )
    if has_example and not request.image and not request.image_id:
        field = str(request.WhichOneof("example"))
        raise InvalidArgument(
            "the example image is empty",
            reason="EMPTY_FILE" if field == "image" else "BAD_ID",
            field=field,
            hint="Leave it out, or give the bytes of an image file or the id of an image of the collection.",
        )
    return text


@dataclass(frozen=True)
class SaidFeedback:
    """Checked feedback: lists without duplicates, comment cleaned. `displayed` is empty when the caller named none."""

    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...]
    comment: str
    displayed: tuple[str, ...]

    @property
    def named(self) -> tuple[str, ...]:
        """All image ids that the caller named."""
        return merged(self.relevant, self.irrelevant, self.displayed)

    def turn(self, last_page: tuple[str, ...]) -> Turn:
        """The turn, with the last page as what was displayed unless the caller named it; marked images were seen."""
        displayed = merged(self.displayed or last_page, self.relevant, self.irrelevant)
        return Turn(self.relevant, self.irrelevant, self.comment, displayed)


def feedback(request: pb.RefineSessionRequest) -> SaidFeedback:
    """The feedback of a request, checked as far as that goes without the session."""
    said = SaidFeedback(
        relevant=merged(request.feedback.relevant_image_ids),
        irrelevant=merged(request.feedback.irrelevant_image_ids),
        comment=clean_text(
            request.feedback.comment,
            field="feedback.comment",
            most=limits.MAX_COMMENT_CHARS,
            reason="COMMENT_TOO_LONG",
        ),
        displayed=merged(request.displayed_image_ids),
    )
    both = sorted({*said.relevant} & {*said.irrelevant})
    if both:
        raise InvalidArgument(
            f"marked relevant and irrelevant at once: {', '.join(map(repr, both[:10]))}",
            reason="CONFLICTING_MARKS",
            field="feedback.irrelevant_image_ids",
            hint="Mark each image one way, or not at all.",
        )
    _check_count(len(said.relevant) + len(said.irrelevant), limits.MAX_MARKS, "feedback", "TOO_MANY_MARKS")
    _check_count(len(said.displayed), limits.MAX_DISPLAYED, "displayed_image_ids", "TOO_MANY_DISPLAYED")
    return said


def _check_count(count: int, most: int, field: str, reason: str) -> None:
    if count > most:
        raise InvalidArgument(f"{field} names {count:,} images", reason=reason, field=field, hint=f"At most {most:,}.")


def page_size(size: int) -> int:
    """Hits of a round, 1 to 1,000."""
    if not 1 <= size <= limits.MAX_PAGE_SIZE:
        raise InvalidArgument(
            f"page_size is {size}",
            reason="BAD_PAGE_SIZE",
            field="session.page_size",
            hint=f"Use 1 to {limits.MAX_PAGE_SIZE:,}, or 0 for the default.",
        )
    return size


def list_size(size: int) -> int:
    """How many resources a list call returns at most."""
    if size < 0:
        raise InvalidArgument(
            f"page_size is {size}", reason="BAD_PAGE_SIZE", field="page_size", hint="Use 0 for the default, or more."
        )
    return min(size or _LIST_DEFAULT, _LIST_MOST)


def ttl_ms(ttl: Duration) -> int:
    """Milliseconds that a session is kept after its last change, from a second to a year."""
    seconds = ttl.seconds + ttl.nanos / 1e9
    if not 1 <= seconds <= limits.MAX_TTL_S:
        raise InvalidArgument(
            f"the ttl is {seconds:g} s",
            reason="BAD_TTL",
            field="session.ttl",
            hint=f"Use 1 to {limits.MAX_TTL_S:,} s, or leave it out.",
        )
    return int(seconds * 1000)


def display_name(name: str) -> str:
    """Free text for people, on one line."""
    most = limits.MAX_DISPLAY_NAME_CHARS
    return clean_text(name, field="session.display_name", most=most, reason="DISPLAY_NAME_TOO_LONG")


def request_id(id: str) -> str:
    """The caller's request id, possibly empty."""
    if len(id) > limits.MAX_REQUEST_ID_CHARS or not id.isprintable():
        raise InvalidArgument(
            "the request id cannot be used",
            reason="BAD_REQUEST_ID",
            field="request_id",
            hint=f"Use at most {limits.MAX_REQUEST_ID_CHARS} printable characters, for example a UUID.",
        )
    return id


def digest(request: pb.CreateSessionRequest | pb.SearchSessionRequest | pb.RefineSessionRequest) -> str:
    """What a request asks for, whatever its request id and etag: the same content gives the same digest."""
    content = copy.deepcopy(request)
    content.request_id = ""
    if not isinstance(content, pb.CreateSessionRequest):
        content.etag = ""
    kind = content.DESCRIPTOR.name.encode()
    return hashlib.sha256(kind + b"\0" + content.SerializeToString(deterministic=True)).hexdigest()


def encode_offset(offset: int) -> str:
    """An opaque page token of a list of rounds."""
    return base64.urlsafe_b64encode(f"round:{offset}".encode()).decode().rstrip("=")


def decode_offset(token: str) -> int:
    """The offset in a page token; 0 for an empty one."""
    if not token:
        return 0
    try:
        kind, _, offset = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise bad_page_token() from error
    if kind != "round" or not (offset.isdecimal() and offset.isascii() and len(offset) < 10):
        raise bad_page_token()
    return int(offset)
