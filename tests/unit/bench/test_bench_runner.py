"""Runs against live services: all four of them in one process, reached through a socket that a test can cut."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hunting_kit import CAPTIONS, Wire, dataset, essence, silent
from running import Running

from warmer import aio
from warmer.bench.datasets.base import Dataset, Problem, Query
from warmer.bench.folder import HUNTS
from warmer.bench.records import Hunt, read_header, read_hunts, to_line
from warmer.bench.runner import Outcome, Plan, run
from warmer.bench.settings import Settings
from warmer.errors import DataLoss, InvalidArgument, WarmerError

SETTINGS = Settings(strategy="preference", shown=3, rounds=2, queries=5)
Play = Callable[..., Awaitable[list[Hunt]]]


@pytest.fixture
async def client(local: Running) -> AsyncIterator[aio.Client]:
    async with aio.Client(local.targets["orchestrator"], embedder=local.targets["embedder"]) as client:
        yield client


@pytest.fixture
def small(gallery: Path) -> Dataset:
    return dataset(gallery)


def plan(data: Dataset, out: Path, settings: Settings = SETTINGS, **options) -> Plan:
    return Plan(data, "gallery", settings, out, **options)


def lines(out: Path) -> dict[tuple[str, str], Hunt]:
    """The run's hunts by query and arm, without times; each is there once."""
    hunts = list(read_hunts(out / HUNTS))
    by_key = {(hunt.query_id, hunt.arm): essence(hunt) for hunt in hunts}
    assert len(by_key) == len(hunts)
    return by_key


async def play(client: aio.Client, data: Dataset, out: Path, settings: Settings = SETTINGS, **options) -> Outcome:
    return await run(client, plan(data, out, settings, **options), silent)


async def test_hunts_and_controls(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, comment="caption", queries=None)
    before = [info async for info in client.sessions.list()]
    outcome = await play(client, small, tmp_path, settings)
    assert (outcome.played, outcome.earlier, outcome.failed) == (len(CAPTIONS), 0, 0)
    assert [info async for info in client.sessions.list()] == before, "sessions are deleted"

    header = read_header(outcome.path)
    assert header.settings["user"] == "visual"
    assert header.images == len(small.images)
    assert header.models["embedder"] == (await client.model()).id
    assert set(header.models) == {"embedder", "captioner", "rewriter"}
    hunts = lines(tmp_path)
    assert len(hunts) == 3 * len(CAPTIONS)
    assert any(hunt.found == 0 for hunt in hunts.values())
    assert any(len(hunt.rounds) > 1 for hunt in hunts.values())
    for (_, arm), hunt in hunts.items():
        opening = hunts[hunt.query_id, "main"].rounds[0]
        assert hunt.rounds[0] == opening, "all arms begin with the same round"
        await check_rounds(client, hunt, arm)
    raw = list(read_hunts(outcome.path))
    assert all({"search", "round"} <= round.timings.keys() for hunt in raw for round in hunt.rounds)


async def check_rounds(client: aio.Client, hunt: Hunt, arm: str) -> None:
    target = hunt.targets[0]
    seen: list[str] = []
    for index, round in enumerate(hunt.rounds):
        assert round.index == index
        assert len(round.displayed) == 3 and not set(round.displayed) & set(seen)
        assert (target in round.displayed) == (hunt.found == index)
        assert round.ranks == {target: round.rank}
        seen += round.displayed
        assert bool(round.comment) == (index > 0 and arm != "next-page")
        assert len(round.relevant) == (index > 0 and arm == "main")
        if index > 0 and arm == "main":
            before = hunt.rounds[index - 1].displayed
            ranking = (await client.search("gallery", image_id=target, top_k=30)).hits
            nearest = [hit.image_id for hit in ranking if hit.image_id in before]
            assert round.relevant == (nearest[0],), "the visual user marks the nearest of what was displayed"
        if arm == "next-page":
            assert round.rank == hunt.rounds[0].rank, "turning the page changes no rank"
    comments = [round.comment for round in hunt.rounds[1:] if round.comment]
    assert len(set(comments)) == len(comments)
    assert set(comments) <= {*CAPTIONS[target]} - {hunt.text}
    assert hunt.stopped == ("rounds" if hunt.found is None else "found")
    assert len(hunt.rounds) == (3 if hunt.found is None else hunt.found + 1)


async def test_the_same_whatever_the_concurrency_and_interruptions(
    client: aio.Client, small: Dataset, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, error_rate=0.5)
    await play(client, small, tmp_path / "whole", settings, concurrency=1)
    whole = lines(tmp_path / "whole")
    await play(client, small, tmp_path / "wide", settings, concurrency=5)
    assert lines(tmp_path / "wide") == whole

    out = tmp_path / "cut"
    task = asyncio.create_task(play(client, small, out, settings, concurrency=2))
    while not (out / HUNTS).exists() or len(lines(out)) < 2:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    first = lines(out)
    assert 0 < len(first) < len(whole)
    with (out / HUNTS).open("a") as file:  # as a crash may leave it: one arm alone, and half a line
        left = next(hunt for key, hunt in whole.items() if key not in first)
        file.write(to_line(left) + to_line(left)[:40])
    outcome = await play(client, small, out, settings)
    assert outcome.earlier == len(first) // 2
    assert lines(out) == whole
    again = await play(client, small, out, settings)
    assert (again.played, again.earlier) == (0, 5)
    assert lines(out) == whole


async def test_other_settings_are_refused(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, queries=1)
    await play(client, small, tmp_path, settings)
    with pytest.raises(InvalidArgument) as caught:
        await play(client, small, tmp_path, dataclasses.replace(settings, seed=7, marks=2))
    assert caught.value.reason == "OTHER_SETTINGS"
    assert "other settings: marks was 1, is 2; seed was 0, is 7" in caught.value.message
    with pytest.raises(InvalidArgument, match=r"data was \"\w{16}\", is"):
        await play(client, dataclasses.replace(small, queries=small.queries[1:]), tmp_path, settings)
    (tmp_path / HUNTS).write_text("something else\n")
    with pytest.raises(InvalidArgument) as caught:
        await play(client, small, tmp_path, settings)
    assert caught.value.reason == "NOT_A_RUN"


async def test_a_damaged_file_is_said_so(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, queries=1)
    await play(client, small, tmp_path, settings)
    path = tmp_path / HUNTS
    path.write_text(path.read_text().replace('"arm"', '"leg"'))
    with pytest.raises(DataLoss, match="no hunt"):
        await play(client, small, tmp_path, settings)


async def test_a_service_that_dies_in_the_middle(local: Running, small: Dataset, tmp_path: Path) -> None:
    wire = Wire(local.home / "w", local.targets["orchestrator"])
    await wire.mend()
    settings = dataclasses.replace(SETTINGS, controls=False, queries=None)
    async with aio.Client(wire.target) as client:
        out = tmp_path / "run"
        task = asyncio.create_task(play(client, small, out, settings, concurrency=1, patience_s=0.5))
        while not (out / HUNTS).exists() or len(lines(out)) < 2:
            await asyncio.sleep(0.005)
        await wire.cut()
        outcome = await task
        hunts = lines(out)
        assert len(hunts) == len(CAPTIONS), "the run goes on"
        failed = [hunt for hunt in hunts.values() if hunt.stopped == "failed"]
        assert outcome.failed == len(failed) > 0
        assert all(hunt.found is None and hunt.failure.startswith("UNAVAILABLE: ") for hunt in failed)

        await wire.mend()
        kept = await play(client, small, out, settings)
        assert kept.played == 0, "a failed hunt is an ended one"
        again = await play(client, small, out, settings, retry_failed=True)
        assert (again.played, again.failed) == (len(failed), 0)
        await wire.cut()
        task = asyncio.create_task(play(client, small, tmp_path / "back", settings, concurrency=1, patience_s=60))
        await asyncio.sleep(0.3)
        await wire.mend()
        assert (await task).failed == 0, "a service that comes back in time costs nothing"
        assert lines(tmp_path / "back") == lines(out)
        await wire.cut()


async def test_a_target_that_is_not_there(client: aio.Client, gallery: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    data = dataset(gallery, problems=(Problem("caption-without-image", "x.jpg"),))
    small = dataclasses.replace(
        data,
        images=(*data.images[:6], dataclasses.replace(data.images[0], image_id="bad.jpg", path=bad)),
        queries=(Query("bad", "a ruin", ("bad.jpg",), ()), *(q for q in data.queries if q.targets[0] == "camera.png")),
    )
    name = f"b-{uuid.uuid4().hex[:12]}"
    settings = dataclasses.replace(SETTINGS, queries=None)
    outcome = await run(client, Plan(small, name, settings, tmp_path / "run"), silent)
    assert [(failure.image_id, failure.outcome) for failure in outcome.not_indexed] == [("bad.jpg", "failed")]
    assert outcome.header.problems == {
        "caption-without-image": 1,
        "image-not-indexed": 1,
        "query-without-indexed-target": 1,
    }
    assert outcome.header.images == 6
    hunts = lines(tmp_path / "run")
    for arm in settings.arms:
        assert hunts["bad", arm].stopped == "failed" and hunts["bad", arm].found is None
        assert hunts["bad", arm].failure.startswith("TARGET_NOT_INDEXED")
        assert hunts["camera.png#0", arm].stopped != "failed"
    await client.collections.delete(name)


async def test_the_reference_protocol(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    far = Query("far", "a cup of espresso on a saucer", ("moon.png",), ())
    data = dataclasses.replace(small, queries=(far, small.queries[1]))
    settings = Settings(strategy="rewrite", protocol="reference")
    await play(client, data, tmp_path, settings)
    hunts = lines(tmp_path)
    near = hunts["coffee.png#0", "main"]
    assert (near.found, near.stopped, len(near.rounds)) == (0, "rank-under-10", 1)
    assert hunts["coffee.png#0", "next-page"].stopped == "found"

    hunt = hunts["far", "main"]
    assert hunt.rounds[0].rank is not None and hunt.rounds[0].rank > 10
    assert len(hunt.rounds) > 1
    assert hunt.stopped in ("rank-under-10", "rank-worse", "rounds")
    marked: list[str] = []
    for round in hunt.rounds:
        assert len(round.displayed) == 10
        marked += round.relevant
        assert set(round.hits) == {image.image_id for image in small.images} - set(marked), (
            "only the visited are left out"
        )
        assert len(round.relevant) == (round.index > 0) and "moon.png" not in round.relevant
    assert len(set(marked)) == len(marked)
    assert hunt.rounds[1].rewrite


async def test_several_targets_and_labels(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    groups = {"v": ("chelsea.png", "coffee.png", "coins.png", "rocket.jpg")}
    video = Query("v", "something", groups["v"], ("a thing",))
    data = dataclasses.replace(small, queries=(video,), groups=groups)
    await play(client, data, tmp_path / "labels", dataclasses.replace(SETTINGS, user="labels", marks=2, shown=6))
    hunt = lines(tmp_path / "labels")["v", "main"]
    assert set(hunt.rounds[0].ranks) == set(groups["v"])
    assert hunt.targets == groups["v"]
    for before, round in zip(hunt.rounds, hunt.rounds[1:], strict=False):
        assert set(round.relevant) <= set(groups["v"]) & set(before.displayed)
    await play(client, data, tmp_path / "visual")
    hunt = lines(tmp_path / "visual")["v", "main"]
    assert hunt.rounds[0].rank == min(hunt.rounds[0].ranks.values())


async def test_what_a_dataset_has_nothing_for(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    bare = dataclasses.replace(small, queries=tuple(dataclasses.replace(q, others=()) for q in small.queries))
    for settings, reason in (
        (dataclasses.replace(SETTINGS, comment="caption"), "NO_COMMENTS"),
        (dataclasses.replace(SETTINGS, user="labels"), "NO_LABELS"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await play(client, bare, tmp_path, settings)
        assert caught.value.reason == reason
    assert not (tmp_path / HUNTS).exists()


async def test_the_semantic_user(client: aio.Client, small: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    captions = CAPTIONS | {image.image_id: (f"photo {image.image_id}",) for image in small.images[10:]}
    data = dataclasses.replace(small, captions=captions)
    settings = dataclasses.replace(SETTINGS, user="semantic")
    await play(client, data, tmp_path / "a", settings)
    assert (tmp_path / "captions-minilm.npz").is_file()
    await play(client, data, tmp_path / "b", settings)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    for hunt in lines(tmp_path / "a").values():
        assert all(id in captions for round in hunt.rounds for id in round.relevant)


async def test_a_full_disk_or_a_defect_ends_the_run(
    client: aio.Client, small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("warmer.bench.journal.Journal.add", full)
    with pytest.raises(OSError, match="No space"):
        await play(client, small, tmp_path)


async def test_no_service_at_all(small: Dataset, tmp_path: Path) -> None:
    async with aio.Client(f"unix:{tmp_path}/none", timeout_s=2) as client:
        with pytest.raises(WarmerError):
            await play(client, small, tmp_path)
    assert not (tmp_path / HUNTS).exists()
