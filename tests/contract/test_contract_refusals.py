"""What cannot be done is refused: each with its class, its reason, the name of the item and a hint; nothing is lost.

Images that cannot be used are in test_contract_bad_input.py.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from warmer import Client, Session
from warmer.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    WarmerError,
)
from warmer.types import NewImage, Term

Ask = Callable[[Client], object]
NEVER = "never-streamed.png"
PIXEL = b"\x00"


def started(client: Client, **options: object) -> Session:
    """A session after its first round."""
    session = client.sessions.create("gallery", page_size=3, **options)
    session.search("a cat")
    return session


def finished(client: Client) -> Session:
    session = started(client)
    session.finish()
    return session


def deleted(client: Client) -> Session:
    session = started(client)
    session.delete()
    return session


def expired(client: Client) -> Session:
    session = started(client, ttl_s=1)
    time.sleep(1.3)
    return session


def outdated(client: Client) -> tuple[Session, str]:
    """A session that has moved on, and its etag from before."""
    session = client.sessions.create("gallery", page_size=3)
    old = session.search("a cat").etag
    session.refine()
    return session, old


def shown(session: Session) -> str:
    """An image of the session's first page."""
    return next(session.rounds()).hits[0].image_id


def stale(change: Callable[[Session, str], object]) -> Ask:
    return lambda client: change(*outdated(client))


EMPTY: dict[str, Ask] = {
    "search": lambda c: c.search("gallery", ""),
    "search for white space": lambda c: c.search("gallery", " \t\n\u3000"),
    "search without a term": lambda c: c.search("gallery", terms=[]),
    "one empty term": lambda c: c.search("gallery", terms=[Term(text="a cat"), Term(text=" ")]),
    "session": lambda c: c.sessions.create("gallery").search(""),
    "session, white space": lambda c: c.sessions.create("gallery").search(" \n"),
    "embed": lambda c: c.embed_text(["a cat", " "]),
}
NO_COLLECTION: dict[str, Ask] = {
    "get": lambda c: c.collections.get("nowhere"),
    "delete": lambda c: c.collections.delete("nowhere"),
    "search": lambda c: c.search("nowhere", "a cat"),
    "session": lambda c: c.sessions.create("nowhere"),
    "images": lambda c: list(c.collections.images("nowhere")),
    "add": lambda c: list(c.collections.add_images("nowhere", [NewImage("x", PIXEL)])),
    "remove": lambda c: c.collections.remove("nowhere", "x"),
}
NO_IMAGE: dict[str, Ask] = {
    "metadata": lambda c: c.collections.image("gallery", "no-such.png"),
    "content": lambda c: c.collections.image_bytes("gallery", "no-such.png"),
    "search": lambda c: c.search("gallery", image_id="no-such.png"),
    "session": lambda c: c.sessions.create("gallery").search(image_id="no-such.png"),
}
NO_SESSION: dict[str, Ask] = {
    "get": lambda c: c.sessions.get("no-such-session"),
    "delete": lambda c: c.sessions.delete("no-such-session"),
    "branch": lambda c: c.sessions.create(parent_round=("no-such-session", 0)),
    "search, deleted": lambda c: deleted(c).search("a dog"),
    "refine, deleted": lambda c: deleted(c).refine(comment="more"),
    "rounds, deleted": lambda c: list(deleted(c).rounds()),
    "finish, deleted": lambda c: deleted(c).finish(),
    "refine, expired": lambda c: expired(c).refine(comment="more"),
    "rounds, expired": lambda c: list(expired(c).rounds()),
}
SLASH: dict[str, Ask] = {
    "make a collection": lambda c: c.collections.create("a/b"),
    "search": lambda c: c.search("a/b", "a cat"),
    "image": lambda c: c.collections.image("gallery", "a/b"),
    "session": lambda c: c.sessions.get("a/b"),
    "make a session": lambda c: c.sessions.create("gallery", id="a/b"),
}
FINISHED: dict[str, Ask] = {
    "comment": lambda c: finished(c).refine(comment="more"),
    "next page": lambda c: finished(c).refine(),
    "search": lambda c: finished(c).search("a dog"),
}
STALE: dict[str, Ask] = {
    "refine": stale(lambda s, old: s.refine(comment="more", etag=old)),
    "update": stale(lambda s, old: s.update(display_name="x", etag=old)),
    "finish": stale(lambda s, old: s.finish(etag=old)),
    "delete": stale(lambda s, old: s.delete(etag=old)),
}
UNSEEN: dict[str, Ask] = {
    "relevant": lambda c: started(c).refine(relevant=[NEVER]),
    "irrelevant": lambda c: started(c).refine(irrelevant=[NEVER]),
    "one among good ones": lambda c: (s := started(c)).refine(relevant=[shown(s), NEVER]),
    "displayed": lambda c: started(c).refine(displayed=[NEVER]),
    "found": lambda c: started(c).finish(NEVER),
}
TOP_K: dict[str, Ask] = {
    f"{k:,}": lambda c, k=k: c.search("gallery", "a cat", top_k=k) for k in (-1, 0, 10_001, 1_000_000)
}
DIMENSIONS: dict[str, Ask] = {
    "short": lambda c: c.search("gallery", terms=[Term(vector=np.ones(7, np.float32))]),
    "long": lambda c: c.search("gallery", terms=[Term(text="a cat"), Term(vector=np.ones(512, np.float32))]),
}
OTHER = [
    (
        "a page too long",
        lambda c: c.sessions.create("gallery", page_size=1001),
        InvalidArgument,
        "BAD_PAGE_SIZE",
        "1001",
    ),
    (
        "other dimensions",
        lambda c: c.collections.create(f"d{uuid.uuid4().hex}", expected_dimensions=512),
        FailedPrecondition,
        "DIMENSION_MISMATCH",
        "512",
    ),
    (
        "feedback too early",
        lambda c: c.sessions.create("gallery").refine(comment="x"),
        FailedPrecondition,
        "NO_ROUND_YET",
        "no round",
    ),
    ("round 0 twice", lambda c: started(c).search("a dog"), FailedPrecondition, "ROUND_EXISTS", "first round"),
    ("no such round", lambda c: c.sessions.create(parent_round=(started(c).id, 7)), NotFound, "ROUND_NOT_FOUND", "7"),
    ("collection twice", lambda c: c.collections.create("gallery"), AlreadyExists, "COLLECTION_EXISTS", "gallery"),
]


def table() -> list[object]:
    """Every case: what is asked, the class and the reason of its error, and what its message names."""
    groups: list[tuple[dict[str, Ask], type[WarmerError], str, str]] = [
        (EMPTY, InvalidArgument, "EMPTY_QUERY", ""),
        (NO_COLLECTION, NotFound, "COLLECTION_NOT_FOUND", "nowhere"),
        (NO_IMAGE, NotFound, "IMAGE_NOT_FOUND", "no-such.png"),
        (NO_SESSION, NotFound, "SESSION_NOT_FOUND", "session"),
        (SLASH, InvalidArgument, "BAD_ID", "a/b"),
        (FINISHED, FailedPrecondition, "SESSION_FINISHED", "finished"),
        (STALE, Aborted, "STALE_ETAG", "etag"),
        (UNSEEN, InvalidArgument, "IMAGE_NOT_STREAMED", NEVER),
        (TOP_K, InvalidArgument, "BAD_TOP_K", "top_k"),
        (DIMENSIONS, InvalidArgument, "DIMENSION_MISMATCH", "256"),
    ]
    cases = [
        pytest.param(ask, kind, reason, names, id=f"{reason}: {what}")
        for asks, kind, reason, names in groups
        for what, ask in asks.items()
    ]
    return cases + [pytest.param(ask, kind, reason, names, id=what) for what, ask, kind, reason, names in OTHER]


@pytest.mark.parametrize(("ask", "kind", "reason", "names"), table())
def test_refused(client: Client, ask: Ask, kind: type[WarmerError], reason: str, names: str) -> None:
    with pytest.raises(kind) as caught:
        ask(client)
    error = caught.value
    assert type(error) is kind
    assert error.reason == reason
    assert names in error.message
    assert error.hint
    assert error.field or error.resource


def test_what_is_refused_changes_nothing(client: Client, gallery: Path) -> None:
    """One session and one collection live through everything that is refused."""
    before = client.collections.get("gallery")
    session = started(client)
    first = list(session.rounds())
    known = shown(session)
    refused: list[Ask] = [
        lambda _: session.refine(relevant=[known, NEVER]),
        lambda _: session.refine(relevant=[known], irrelevant=[known]),
        lambda _: session.refine(comment="more", etag="wrong"),
        lambda _: session.search("another"),
        lambda _: session.finish(NEVER),
        lambda _: session.update(page_size=1_000_000),
        *(ask for group in (EMPTY, NO_IMAGE, SLASH, TOP_K, DIMENSIONS) for ask in group.values()),
    ]
    for ask in refused:
        with pytest.raises(WarmerError):
            ask(client)
    assert list(session.rounds()) == first
    assert (session.refresh().state, session.info.round_count) == ("active", 1)
    assert client.collections.get("gallery") == before
    assert client.collections.image_bytes("gallery", "coffee.png") == (gallery / "coffee.png").read_bytes()
    assert session.refine(relevant=[known]).index == 1
