"""Plays one query: its hunt and the controls beside it, each a session of its own over the live services.

Round 0 is the same for all arms, so it is made once: the controls start from it as branches of the hunt's session
(``parent_round``), and where it shows the target they need no session at all. The ranks of a round are asked for by
``RankImages`` under the round's own search; a search that differs only in what it leaves out is not asked for again,
since ranks are given as if nothing were left out.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from warmer import types
from warmer.aio import Client, Session
from warmer.bench import users
from warmer.bench.datasets.base import Query
from warmer.bench.patience import Patience
from warmer.bench.protocols import Protocol, is_find
from warmer.bench.records import Hunt, Round
from warmer.bench.settings import COMMENT_ONLY, MAIN, Settings
from warmer.bench.similarity import Likeness
from warmer.errors import Internal, NotFound, WarmerError

TTL_S = 3_600.0
"""How long the services keep the sessions of a run that ended without deleting them, in seconds."""


@dataclass(frozen=True)
class Scene:
    """What all hunts of a run share.

    Attributes:
        client: of the services.
        collection: id of the collection that is searched.
        settings: of the run, with the name of the strategy.
        present: ids of the images in the collection.
        mates: for images of a group, all images of it.
        likeness: in the eyes of the person.
        patience: with services that are away.
        keep_sessions: whether sessions are left to be looked at.
    """

    client: Client
    collection: str
    settings: Settings
    present: frozenset[str]
    mates: Mapping[str, frozenset[str]]
    likeness: Likeness
    patience: Patience
    keep_sessions: bool = False


async def play(scene: Scene, query: Query) -> list[Hunt]:
    """The hunts of all arms of a query, in the order of `Settings.arms`. A hunt that cannot go on has failed."""
    return await _Play(scene, query).all()


@dataclass(frozen=True)
class _Said:
    """What the person does with a round: the marks, the comment, and the images to name as displayed."""

    marks: tuple[str, ...]
    comment: str
    seen: tuple[str, ...]


class _Play:
    """One query. Its sessions end with it."""

    def __init__(self, scene: Scene, query: Query) -> None:
        self._scene = scene
        self._query = query
        settings = scene.settings
        self._goal = users.goal_of(query, scene.present, scene.mates, user=settings.user, seed=settings.seed)
        self._comments = users.comments_of(query, settings.seed) if settings.comment != "none" else ()
        self._ranks: dict[object, dict[str, int]] = {}
        self._sessions: list[Session] = []
        self._opening: Round | None = None
        self._opening_s = 0.0

    async def all(self) -> list[Hunt]:
        """See :func:`play`."""
        if not self._goal.targets:
            why = "TARGET_NOT_INDEXED: no image that is right for the query is in the collection"
            return [self._hunt(arm, (), "failed", 0.0, why) for arm in self._scene.settings.arms]
        try:
            return [await self._arm(arm) for arm in self._scene.settings.arms]
        finally:
            if not self._scene.keep_sessions:
                await self._delete_sessions()

    async def _arm(self, arm: str) -> Hunt:
        began = time.perf_counter()
        rounds: list[Round] = []
        stopped, failure = "failed", ""
        spent = self._opening_s
        try:
            rounds.append(await self._open())
            stopped = await self._go_on(arm, rounds)
        except WarmerError as error:
            failure = f"{error.reason}: {error.message}"
        return self._hunt(arm, rounds, stopped, spent + time.perf_counter() - began, failure)

    async def _open(self) -> Round:
        """Round 0, made by the first arm for all."""
        if self._opening is None:
            began = time.perf_counter()
            scene = self._scene
            protocol = scene.settings.protocol_of(MAIN)
            session = await self._create(protocol)
            request_id = _request_id()
            searched = await scene.patience("search", lambda: session.search(self._query.text, request_id=request_id))
            took = time.perf_counter() - began
            self._opening = await self._record(searched, protocol, _Said((), "", ()), took)
            self._opening_s = time.perf_counter() - began
        return self._opening

    async def _go_on(self, arm: str, rounds: list[Round]) -> str:
        """Plays the rounds after round 0, appending them, and says why the hunt ended."""
        protocol = self._scene.settings.protocol_of(arm)
        session: Session | None = None
        while not (stop := protocol.stop(rounds)):
            said = await self._say(arm, protocol, rounds)
            if said is None:
                return "no-choice"
            if session is None:
                session = self._sessions[0] if arm == MAIN else await self._create(protocol, branch=True)
            rounds.append(await self._refine(session, protocol, said))
        return stop

    async def _say(self, arm: str, protocol: Protocol, rounds: Sequence[Round]) -> _Said | None:
        """What the person does after the last of these rounds; None when there is nothing left to do it with."""
        last = rounds[-1]
        comments = self._comments if arm in (MAIN, COMMENT_ONLY) else ()
        comment = comments[last.index] if last.index < len(comments) else ""
        marks = await self._mark(protocol, rounds) if arm == MAIN else ()
        seen = protocol.seen(last.displayed, marks)
        return _Said(marks, comment, seen) if seen else None

    async def _mark(self, protocol: Protocol, rounds: Sequence[Round]) -> tuple[str, ...]:
        settings, last = self._scene.settings, rounds[-1]
        taken = {*self._goal.targets, *(id for round in rounds for id in round.relevant)}
        candidates = [id for id in last.hits[: protocol.choices] if id not in taken]
        if not candidates:
            return ()
        return users.chosen(
            candidates,
            await self._scene.likeness(self._goal, candidates),
            marks=settings.marks,
            error_rate=settings.error_rate,
            luck=users.generator(settings.seed, self._query.query_id, "marks", last.index),
        )

    async def _create(self, protocol: Protocol, *, branch: bool = False) -> Session:
        """A new session, or one that goes on from round 0 of the hunt's."""
        scene, request_id = self._scene, _request_id()
        parent = (self._sessions[0].id, 0) if branch else None
        session = await scene.patience(
            "create",
            lambda: scene.client.sessions.create(
                None if branch else scene.collection,
                strategy=cast(types.Strategy, scene.settings.strategy),
                page_size=protocol.page_size,
                ttl_s=TTL_S,
                parent_round=parent,
                request_id=request_id,
            ),
        )
        self._sessions.append(session)
        return session

    async def _refine(self, session: Session, protocol: Protocol, said: _Said) -> Round:
        began, request_id = time.perf_counter(), _request_id()
        refined = await self._scene.patience(
            "refine",
            lambda: session.refine(said.marks, comment=said.comment, displayed=said.seen, request_id=request_id),
        )
        return await self._record(refined, protocol, said, time.perf_counter() - began)

    async def _record(self, round: types.Round, protocol: Protocol, said: _Said, seconds: float) -> Round:
        hits = tuple(hit.image_id for hit in round.hits)
        ranks = await self._ranked(round)
        best = [ranks[id] for id in self._goal.targets if id in ranks]
        if not best:
            raise NotFound("the image that is looked for was removed from the collection", reason="TARGET_REMOVED")
        timings = {"round": seconds}
        for timing in round.timings:
            timings[timing.stage] = timings.get(timing.stage, 0.0) + timing.seconds
        rewrite = round.rewrite
        return Round(
            index=round.index,
            rank=min(best),
            position=min((hits.index(id) + 1 for id in self._goal.targets if id in hits), default=None),
            hits=hits,
            displayed=hits[: protocol.shown],
            ranks=ranks,
            query=round.query,
            relevant=said.marks,
            comment=said.comment,
            rewrite=rewrite.text if rewrite else "",
            # `configured` is the way of joining itself, and no verdict of the guard.
            fell_back=rewrite is not None and rewrite.fell_back and rewrite.fallback_reason != "configured",
            degraded=round.degraded_stages,
            timings=timings,
            tokens=(rewrite.tokens if rewrite else 0) + sum(caption.tokens for caption in round.captions),
        )

    async def _ranked(self, round: types.Round) -> dict[str, int]:
        """The rank of each image of `Goal.ranked` under the round's search; images without one are left out."""
        search = round.search
        if search is None:
            raise Internal("the round does not say which search it ran", reason="NO_SEARCH")
        key = (search.terms, search.preferences, search.prior_temperature)
        if key not in self._ranks:
            ranking = await self._scene.patience("rank", lambda: self._scene.client.rank(search, self._goal.ranked))
            self._ranks[key] = {item.image_id: item.rank for item in ranking.ranks if item.rank is not None}
        return self._ranks[key]

    def _hunt(self, arm: str, rounds: Sequence[Round], stopped: str, seconds: float, failure: str) -> Hunt:
        settings = self._scene.settings
        found = rounds[-1].index if rounds and stopped != "failed" and is_find(rounds[-1]) else None
        return Hunt(
            query_id=self._query.query_id,
            arm=arm,
            strategy=settings.strategy,
            user=settings.user,
            text=self._query.text,
            targets=self._query.targets,
            rounds=tuple(rounds),
            found=found,
            stopped=stopped,
            failure=failure,
            seconds=seconds,
        )

    async def _delete_sessions(self) -> None:
        for session in self._sessions:
            with contextlib.suppress(WarmerError):  # it expires by itself; the hunt does not depend on it
                await session.delete()


def _request_id() -> str:
    """Makes a call safe to repeat."""
    return str(uuid.uuid4())
