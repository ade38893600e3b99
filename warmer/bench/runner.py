"""Runs many hunts: indexes, plays, and writes each as it ends, so that an interrupted run can go on.

The result depends on the settings, the data and the models alone: neither on how many hunts run at once nor on
interruptions. Lines are written in the order in which hunts end.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from warmer._aio.calls import call
from warmer._settings import captioner_target, rewriter_target
from warmer.aio import Client
from warmer.bench import selection, users
from warmer.bench.datasets.base import Dataset, Query
from warmer.bench.folder import HUNTS, note_images
from warmer.bench.hunts import Scene, play
from warmer.bench.indexing import Indexed, index
from warmer.bench.journal import Journal
from warmer.bench.patience import Patience
from warmer.bench.records import VERSION, Header
from warmer.bench.settings import Settings
from warmer.bench.similarity import Labels, Likeness, Semantic, Visual, directions_of
from warmer.channel import make_aio_channel
from warmer.errors import InvalidArgument, WarmerError
from warmer.types import AddResult, Model
from warmer.v1 import captioner_pb2_grpc, common_pb2, rewriter_pb2_grpc

Show = Callable[[int, int], None]
"""Is told how much is done, of how much."""

Progress = Callable[[str, str], AbstractContextManager[Show]]
"""Opens the display of one part of the work, given what is being done and to what."""

_MODEL_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        dataset: what is searched and asked for.
        collection: id of the collection that holds its images, or will.
        settings: what decides the result.
        out: folder of the run; its file is `folder.HUNTS`.
        concurrency: queries that are played at once.
        patience_s: seconds to wait for a service that is away before hunts fail.
        keep_sessions: whether the sessions stay in the services.
        retry_failed: whether queries of which a hunt has failed are played again when the run goes on.
    """

    dataset: Dataset
    collection: str
    settings: Settings
    out: Path
    concurrency: int = 8
    patience_s: float = 60.0
    keep_sessions: bool = False
    retry_failed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        path: of the run's file.
        header: its first line.
        played: number of queries that were played now.
        earlier: number of queries that the file had already.
        failed: number of hunts that failed now.
        not_indexed: images that could not be added to the collection.
    """

    path: Path
    header: Header
    played: int
    earlier: int
    failed: int
    not_indexed: tuple[AddResult, ...] = field(repr=False)


async def run(client: Client, plan: Plan, progress: Progress) -> Outcome:
    """Plays what the file of the run lacks.

    Raises:
        InvalidArgument: ``OTHER_SETTINGS`` when the folder holds a run with other settings; ``NO_QUERIES``,
            ``NO_COMMENTS``, ``NO_LABELS``, ``BAD_SUBSET``.
        FailedPrecondition: ``PACKAGE_NOT_INSTALLED``, ``MODEL_NOT_INSTALLED`` for the `semantic` user.
        WarmerError: what the services answered before the first hunt; later failures are the hunts'.
    """
    if plan.concurrency < 1:
        raise InvalidArgument(f"concurrency is {plan.concurrency}", reason="BAD_SETTING", field="concurrency")
    settings, dataset = plan.settings, plan.dataset
    queries = selection.selected(dataset, subset=settings.images_subset, queries=settings.queries, seed=settings.seed)
    mates = selection.mates_of(dataset.groups)
    _check_usable(settings, queries, mates)
    with progress("indexing", "images") as show:
        indexed = await index(client, plan.collection, dataset, show)
    settings = dataclasses.replace(settings, strategy=await _strategy(client, plan))
    header = await _header(client, plan, settings, indexed, queries)
    with Journal(plan.out / HUNTS, header, settings.arms, retry_failed=plan.retry_failed) as journal:
        note_images(plan.out, dataset)
        left = [query for query in queries if query.query_id not in journal.played]
        patience = Patience(plan.patience_s)
        likeness = await _likeness(client, plan, patience, progress) if left else Labels()
        scene = Scene(
            client, plan.collection, settings, indexed.image_ids, mates, likeness, patience, plan.keep_sessions
        )
        earlier = len(queries) - len(left)
        with progress("hunting", "queries") as show:
            failed = await _play_all(scene, left, journal, plan.concurrency, lambda n: show(n, len(left)))
    return Outcome(plan.out / HUNTS, header, len(left), earlier, failed, indexed.failures)


async def _play_all(
    scene: Scene, queries: Sequence[Query], journal: Journal, concurrency: int, show: Callable[[int], None]
) -> int:
    """Plays queries, some at once, and writes each; returns the number of hunts that failed."""
    waiting: Iterator[Query] = iter(queries)
    done = failed = 0

    async def work() -> None:
        nonlocal done, failed
        for query in waiting:
            hunts = await play(scene, query)
            journal.add(hunts)
            done += 1
            failed += sum(hunt.stopped == "failed" for hunt in hunts)
            show(done)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(queries))):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors  # hunts fail by themselves; this is a full disk or a defect
    return failed


def _check_usable(settings: Settings, queries: Sequence[Query], mates: dict[str, frozenset[str]]) -> None:
    """Raises InvalidArgument for a user or a comment that the dataset has nothing for."""
    if settings.comment != "none" and not any(users.comments_of(query, settings.seed) for query in queries):
        raise InvalidArgument(
            "no query has another caption that could be a comment",
            reason="NO_COMMENTS",
            field="comment",
            hint="Leave --comment out for datasets with one caption for each image.",
        )
    if settings.user == "labels":
        everything = frozenset(id for query in queries for id in query.targets)
        goals = (users.goal_of(query, everything, mates, user="labels", seed=settings.seed) for query in queries)
        if not any(goal.relevant for goal in goals):
            raise InvalidArgument(
                "the labels user marks images that are relevant beside the one in mind, and no query has any",
                reason="NO_LABELS",
                field="user",
                hint="Use --user visual or --user semantic with datasets of one image for each query.",
            )


async def _likeness(client: Client, plan: Plan, patience: Patience, progress: Progress) -> Likeness:
    if plan.settings.user == "labels":
        return Labels()
    if plan.settings.user == "visual":
        return Visual(client, plan.collection, patience)
    with progress("reading captions", "captions") as show:
        # On a thread, so that connections stay alive meanwhile. The cache is shared by the runs beside this one.
        return Semantic(await asyncio.to_thread(directions_of, plan.dataset.captions, plan.out.parent, show))


async def _strategy(client: Client, plan: Plan) -> str:
    """The name of the strategy; the server's default is learned from a session that is made for it."""
    if plan.settings.strategy:
        return plan.settings.strategy
    session = await client.sessions.create(plan.collection)
    await session.delete()
    return session.info.strategy


async def _header(client: Client, plan: Plan, settings: Settings, indexed: Indexed, queries: Sequence[Query]) -> Header:
    problems = Counter(problem.kind for problem in plan.dataset.problems)
    problems["image-not-indexed"] = sum(image.image_id not in indexed.image_ids for image in plan.dataset.images)
    problems["query-without-indexed-target"] = sum(indexed.image_ids.isdisjoint(query.targets) for query in queries)
    problems["image-not-in-dataset"] = indexed.strangers
    data = selection.fingerprint(plan.dataset, subset=settings.images_subset, captions=settings.user == "semantic")
    return Header(
        version=VERSION,
        dataset=plan.dataset.name,
        collection=plan.collection,
        images=len(indexed.image_ids),
        settings=settings.as_json() | {"data": data},
        models=await _models(client),
        problems={kind: count for kind, count in sorted(problems.items()) if count},
    )


async def _models(client: Client) -> dict[str, str]:
    """The models by service. Language models that cannot be asked are left out: not every strategy needs them."""
    models = {"embedder": (await client.model()).id}
    orchestrator = client.targets.orchestrator
    for name, target, stub in (
        ("captioner", captioner_target(orchestrator, None), captioner_pb2_grpc.CaptionerServiceStub),
        ("rewriter", rewriter_target(orchestrator, None), rewriter_pb2_grpc.RewriterServiceStub),
    ):
        channel = make_aio_channel(target, timeout_s=_MODEL_TIMEOUT_S)
        try:
            model = Model.from_proto(await call(stub(channel).GetModel, common_pb2.GetModelRequest()))
        except WarmerError:
            continue
        finally:
            await channel.close(None)
        models[name] = f"{model.id} {model.prompt_version}".strip()
    return models
