"""Rounds with a stopwatch: what a person would wait for, measured where the person is, at the client.

A text or an image that was used before costs less the second time, in the embedder's cache of texts and in the cache
of captions; so a `Hunter` gives out every caption once, and knows which images have been captioned.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.photos import Photo
from warmer import Client
from warmer.types import EarlyHits, Round, RoundReady

STAGES = ("embed", "score", "early_search", "caption", "rewrite", "search")
"""Of a search without a session the first two, of a round the others."""


@dataclass(frozen=True)
class Sample:
    """One measured wait, in seconds. `stages` is what the round says of itself; `rest` is what no stage accounts for:
    Redis, gRPC, the orchestrator."""

    first_hit: float
    total: float
    stages: dict[str, float]
    fell_back: bool = False
    degraded: bool = False

    @property
    def rest(self) -> float:
        """Time outside all stages."""
        return self.total - sum(self.stages.values())


class Hunter:
    """Hunts in one collection. `captioned` holds the images whose caption is in the cache; threads may share it."""

    def __init__(self, client: Client, collection: str, captioned: set[str]) -> None:
        self._client = client
        self._collection = collection
        self._captioned = captioned

    def stateless(self, text: str) -> Sample:
        """A search without a session."""
        begin = time.perf_counter()
        result = self._client.search(self._collection, text)
        total = time.perf_counter() - begin
        return Sample(total, total, {timing.stage: timing.seconds for timing in result.timings})

    def iteration(self, photo: Photo) -> Iterator[tuple[str, Sample]]:
        """One round of each kind, by name. Takes the photo's captions: a query and four comments.

        The next page has no comment. Only a round whose text is new to the embedder is measured.
        """
        query, page_comment, cold, warm, preference = (photo.captions * 5)[:5]
        yield "search without a session", self.stateless(page_comment)
        session = self._client.sessions.create(self._collection, strategy="rewrite")
        begin = time.perf_counter()
        first = session.search(query)
        total = time.perf_counter() - begin
        yield "round 0", _of_round(first, total, total)
        ids = [hit.image_id for hit in first.hits]
        new = next((id for id in ids if id not in self._captioned), None)
        if new is not None:
            self._captioned.add(new)
            yield "`rewrite`, caption made", self.refined("rewrite", query, new, cold)
            yield "`rewrite`, caption cached", self.refined("rewrite", query, new, warm)
        yield "`preference`", self.refined("preference", query, ids[0], preference)
        yield "next page", self.refined("preference", query, None, "")

    def refined(self, strategy: str, query: str, mark: str | None, comment: str) -> Sample:
        """Round 1 of a new session; its round 0 is not measured."""
        session = self._client.sessions.create(
            self._collection, strategy="preference" if strategy == "preference" else "rewrite"
        )
        session.search(query)
        first_hit, begin = None, time.perf_counter()
        for event in session.refine_stream(relevant=[mark] if mark else [], comment=comment):
            if first_hit is None and isinstance(event, EarlyHits | RoundReady):
                first_hit = time.perf_counter() - begin
            if isinstance(event, RoundReady):
                return _of_round(event.round, first_hit or 0.0, time.perf_counter() - begin)
        raise RuntimeError("the stream ended without a round")


class Company(threading.Thread):
    """Another session that keeps the language model writing, until it is told to stop.

    It marks one image whose caption is cached, with a new comment each time, so that nearly all of its time is the
    rewriter's.
    """

    def __init__(self, client: Client, collection: str, captioned: set[str], photos: Sequence[Photo]) -> None:
        super().__init__(name="company", daemon=True)
        self._client = client
        self._collection = collection
        self._captioned = captioned
        self._photos = photos
        self._over = threading.Event()
        self.rounds = 0
        self.tokens = 0
        self.writing_s = 0.0
        self.running_s = 0.0
        self.error: Exception | None = None

    def __enter__(self) -> Company:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        """Hunts until it is told to stop; an error is raised by the ``with`` statement."""
        begin = time.perf_counter()
        try:
            while not self._over.is_set():
                self._one(self._photos[self.rounds % len(self._photos)])
        except Exception as error:
            self.error = error
        self.running_s = time.perf_counter() - begin

    def _one(self, photo: Photo) -> None:
        session = self._client.sessions.create(self._collection, strategy="rewrite")
        first = session.search(photo.captions[0])
        known = next((hit.image_id for hit in first.hits if hit.image_id in self._captioned), None)
        if known is None:
            known = first.hits[0].image_id
            self._captioned.add(known)
        round = session.refine(relevant=[known], comment=photo.captions[-1 - self.rounds % len(photo.captions)])
        self.rounds += 1
        self.tokens += round.rewrite.tokens if round.rewrite else 0
        self.writing_s += sum(timing.seconds for timing in round.timings if timing.stage == "rewrite")


def _of_round(round: Round, first_hit: float, total: float) -> Sample:
    stages: dict[str, float] = {}
    for timing in round.timings:
        stages[timing.stage] = stages.get(timing.stage, 0.0) + timing.seconds
    # `configured` is the join mode itself, and no failure of the guard.
    fell_back = round.rewrite is not None and round.rewrite.fell_back and round.rewrite.fallback_reason != "configured"
    return Sample(first_hit, total, stages, fell_back, bool(round.degraded_stages))
