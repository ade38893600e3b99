"""What is interrupted in the middle: a round whose owner dies, a drain, a machine that loses its power."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import Running

from warmer import Client, Session
from warmer.cli.stack import SERVICES
from warmer.types import EarlyHits, Event, NewImage, RoundReady


class Watched:
    """A refine that another thread follows, so that this one can break things meanwhile."""

    def __init__(self, session: Session, marked: str) -> None:
        self._events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        self._seen: list[Event] = []
        self._thread = threading.Thread(target=self._follow, args=(session, marked), daemon=True)
        self._thread.start()

    def _follow(self, session: Session, marked: str) -> None:
        try:
            for event in session.refine_stream(relevant=[marked], comment="a red one", timeout_s=60):
                self._events.put(event)
        except BaseException as error:
            self._events.put(error)

    def until(self, kind: type[Event]) -> Event:
        """Waits for the first event of a kind."""
        while True:
            event = self._events.get(timeout=60)
            if isinstance(event, BaseException):
                raise event
            self._seen.append(event)
            if isinstance(event, kind):
                return event

    def sequences(self) -> list[int]:
        return [event.sequence for event in self._seen]


@contextmanager
def frozen(running: Running, name: str) -> Iterator[None]:
    """A service that does nothing meanwhile, which keeps a round where it is."""
    process = running.process(name)
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def begun(client: Client, text: str) -> tuple[Session, str]:
    """A session after round 0, and an image of it that nobody has captioned yet."""
    session = client.sessions.create("gallery", strategy="rewrite", page_size=4)
    return session, session.search(text).hits[0].image_id


def test_a_round_outlives_its_orchestrator(own: Running, client: Client) -> None:
    session, marked = begun(client, "a bunch of coins")
    with frozen(own, "captioner"):
        watched = Watched(session, marked)
        watched.until(EarlyHits)
        own.kill("orchestrator")
        own.restart("orchestrator")
    last = watched.until(RoundReady)
    assert isinstance(last, RoundReady)
    assert watched.sequences() == list(range(1, last.sequence + 1))
    assert last.round.captions
    assert "red" in last.round.query
    assert [round.index for round in session.rounds()] == [0, 1]
    assert session.refine(comment="outdoors").index == 2


def test_a_round_outlives_its_redis(own: Running, client: Client) -> None:
    session, marked = begun(client, "the moon")
    with frozen(own, "captioner"):
        watched = Watched(session, marked)
        watched.until(EarlyHits)
        (server,) = own.redis()
        server.kill()
        server.wait(10)
    last = watched.until(RoundReady)
    assert isinstance(last, RoundReady)
    assert last.round.degraded_stages == ()
    assert watched.sequences() == list(range(1, last.sequence + 1))
    assert [round.index for round in session.rounds()] == [0, 1]


def test_a_drain_lets_the_round_end(own: Running, client: Client) -> None:
    session, marked = begun(client, "an old page of text")
    orchestrator = own.process("orchestrator")
    try:
        with frozen(own, "captioner"):
            watched = Watched(session, marked)
            watched.until(EarlyHits)
            orchestrator.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                orchestrator.wait(0.5)
        last = watched.until(RoundReady)
        assert orchestrator.wait(20) == 0
    finally:
        own.restart("orchestrator")
    assert isinstance(last, RoundReady)
    assert last.round.degraded_stages == ()
    assert list(session.rounds())[1] == last.round
    assert "drain" in own.log("orchestrator")


def test_nothing_is_lost_when_everything_dies_at_once(own: Running, client: Client, gallery: Path) -> None:
    client.collections.create("durable")
    photos = sorted(gallery.iterdir())[:6]
    kept = list(client.collections.add_images("durable", [NewImage(photo.name, photo) for photo in photos]))
    assert [result.outcome for result in kept] == ["added"] * 6
    session = client.sessions.create("durable", strategy="preference", page_size=2)
    first = session.search("a clock")
    second = session.refine(relevant=[first.hits[0].image_id])
    for name in SERVICES:
        own.process(name).send_signal(signal.SIGKILL)
    for server in own.redis():
        server.kill()
    for name in SERVICES:
        own.process(name).wait(30)
    for name in SERVICES:
        own.restart(name)
    with own.client() as again:
        assert {image.id: image.sha256 for image in again.collections.images("durable")} == {
            result.image_id: result.sha256 for result in kept
        }
        for photo in photos:
            assert again.collections.image_bytes("durable", photo.name) == photo.read_bytes()
        there = again.sessions.get(session.id)
        assert list(there.rounds()) == [first, second]
        third = there.refine()
        assert not {h.image_id for h in third.hits} & {h.image_id for h in (*first.hits, *second.hits)}


def test_one_process_killed_between_rounds_loses_nothing(gallery: Path) -> None:
    running = Running("local").start()
    try:
        with running.client() as client:
            client.collections.create("gallery")
            client.collections.add_folder("gallery", gallery)
            session = client.sessions.create("gallery", strategy="preference", page_size=4)
            first = session.search("a machine")
            running.kill("local")
            running.restart("local")
            second = session.refine(relevant=[first.hits[0].image_id])
            assert list(session.rounds()) == [first, second]
            assert client.search("gallery", "a rocket").hits[0].image_id == "rocket.jpg"
            assert running.kill("local", signal.SIGTERM) == 0
            assert running.redis() == []  # an orderly end takes the embedded Redis with it
            running.restart("local")
            assert list(session.rounds()) == [first, second]
    finally:
        running.stop()
