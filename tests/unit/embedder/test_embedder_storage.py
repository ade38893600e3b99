"""What is on disk: kill -9 in the middle, one writer, damaged files, leftovers, restarts, pages."""

import asyncio
import hashlib
import sqlite3
import sys
from pathlib import Path

import grpc
import pytest
from embedder_kit import Api, picture, refused, running, settings_for
from tiny_encoder import COLOURS

from services.common.settings import Settings
from services.embedder.collections.catalog import Catalog
from warmer.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound
from warmer.v1 import embedder_pb2

PROGRAM = Path(__file__).with_name("embedder_process.py")
PHOTOS = "tenants/default/collections/photos"


async def start(folder: Path, socket: str = "s") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(folder / "data"),
        str(folder / socket),
        cwd=PROGRAM.parents[3],
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(PROGRAM.parents[3]), "PATH": ""},
    )


async def connect(folder: Path) -> Api:
    api = Api(grpc.aio.insecure_channel(f"unix:{folder}/s"))
    async with asyncio.timeout(60):
        while True:
            try:
                await api.stub.ListCollections(embedder_pb2.ListCollectionsRequest(), timeout=5)
                return api
            except grpc.RpcError:
                await asyncio.sleep(0.1)


async def write_until_killed(api: Api, stop: asyncio.Event, known: dict[str, bytes], unsure: set[str]) -> None:
    """Adds, replaces and removes; `known` holds what was acknowledged, `unsure` the ids with something in flight."""
    turn = 0
    while not stop.is_set():
        turn += 1
        colour = list(COLOURS)[turn % len(COLOURS)]
        items = {f"i{(turn * 17 + n) % 120}": picture(colour, turn * 100 + n) for n in range(24)}
        unsure.update(items)
        try:
            for result in await api.results(list(items.items())):
                assert result.status.code == 0, result
                known[result.image_id] = items[result.image_id]
                unsure.discard(result.image_id)
            gone = sorted(known)[turn % 7 :: 9]
            unsure.update(gone)
            request = embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=gone)
            await api.stub.RemoveImages(request)
            for id in gone:
                del known[id]
                unsure.discard(id)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error
            return


async def test_kill_9_loses_nothing_that_was_acknowledged(folder: Path) -> None:
    known: dict[str, bytes] = {}
    unsure: set[str] = set()
    for delay in (0.4, 1.1):
        process = await start(folder)
        api = await connect(folder)
        if not known:
            await api.create()
        stop = asyncio.Event()
        writing = asyncio.create_task(write_until_killed(api, stop, known, unsure))
        await asyncio.sleep(delay)
        process.kill()
        await process.wait()
        stop.set()
        await writing
        await check_everything(folder, known, unsure)
    assert known


async def check_everything(folder: Path, known: dict[str, bytes], unsure: set[str]) -> None:
    """Everything acknowledged is there exactly once, whole and findable; nothing else is, but what was in flight."""
    async with running(settings_for(folder)) as api:
        listed = await api.stub.ListImages(
            embedder_pb2.ListImagesRequest(collection="collections/photos", page_size=1000)
        )
        ids = [image.image_id for image in listed.images]
        assert len(set(ids)) == len(ids)
        assert set(known) - unsure <= set(ids) <= set(known) | unsure
        found = (await api.search("red", top_k=10_000)).hits
        assert sorted(hit.image_id for hit in found) == sorted(ids)
        hashes = {hit.image_id: hit.sha256 for hit in found}
        for image in listed.images:
            _, content = await api.content(image.image_id)
            assert hashlib.sha256(content).hexdigest() == image.sha256 == hashes[image.image_id]
            if image.image_id not in unsure:
                assert content == known[image.image_id]
        objects = [path for path in (folder / "data" / PHOTOS / "objects").rglob("*") if path.is_file()]
        assert len(objects) == len({image.sha256 for image in listed.images}), "nothing is left over"
        collection = await api.stub.GetCollection(embedder_pb2.GetCollectionRequest(name="collections/photos"))
        assert collection.image_count == len(ids)
        assert collection.content_bytes == sum(path.stat().st_size for path in objects)
        # What was in flight is settled now.
        for image in listed.images:
            known[image.image_id] = (await api.content(image.image_id))[1]
        for id in set(known) - set(ids):
            del known[id]
        unsure.clear()


async def test_second_embedder_on_the_same_data(folder: Path, settings: Settings) -> None:
    async with running(settings) as api:
        await api.create()
        second = await start(folder, "other")
        log, _ = await asyncio.wait_for(second.communicate(), 60)
        assert second.returncode == 1
        assert b"another embedder" in log and b"WARMER_DATA_DIR" in log
        with pytest.raises(FailedPrecondition) as caught:
            Catalog(settings.data_dir)
        assert caught.value.reason == "DATA_DIR_IN_USE"
        await api.add([("x", picture("red"))])
        assert await api.ids("red") == ["x"]


async def test_restart_keeps_everything_and_uses_the_snapshot(folder: Path) -> None:
    settings = settings_for(folder)
    items = [(f"i{n}", picture("green", n)) for n in range(30)]
    async with running(settings) as api:
        await api.create()
        revision = (await api.add(items))[-1].revision
        before = await api.ids("green", top_k=100)
    assert list((settings.data_dir / PHOTOS / "index").glob("*.safetensors"))
    assert (settings.data_dir / PHOTOS / "clean").exists()
    async with running(settings) as api:
        assert await api.ids("green", top_k=100, min_revision=revision) == before
        await api.stub.RemoveImages(embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=["i3"]))
    for path in (settings.data_dir / PHOTOS / "index").iterdir():
        path.write_bytes(b"damaged")
    async with running(settings) as api:
        assert await api.ids("green", top_k=100) == [id for id in before if id != "i3"]


async def test_damaged_and_missing_content(api: Api, settings: Settings) -> None:
    content = picture("red")
    await api.add([("x", content), ("y", picture("blue"))])
    path = settings.data_dir / PHOTOS / "objects" / hashlib.sha256(content).hexdigest()[:2]
    (file,) = path.iterdir()
    file.write_bytes(content[:-1] + b"?")
    async with refused("CONTENT_DAMAGED", DataLoss):
        await api.content("x")
    file.unlink()
    async with refused("CONTENT_DAMAGED", DataLoss):
        await api.content("x")
    assert len(await api.ids("red")) == 2
    results = await api.results([("x", content)])
    assert results[0].outcome == embedder_pb2.AddImagesResult.OUTCOME_UNCHANGED
    assert (await api.content("x"))[1] == content, "adding the same bytes again heals it"


@pytest.mark.parametrize("how", ["garbage", "empty", "missing", "future"])
async def test_a_damaged_record_stops_only_its_collection(folder: Path, how: str) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.create("other")
        await api.add([("x", picture("red"))])
        await api.add([("x", picture("red"))], collection="collections/other")
    record = settings.data_dir / PHOTOS / "collection.sqlite3"
    match how:
        case "garbage":
            record.write_bytes(b"no database at all" * 1000)
        case "empty":
            record.write_bytes(b"")
        case "missing":
            record.unlink()
        case "future":
            connection = sqlite3.connect(record)
            connection.execute("PRAGMA user_version = 99")
            connection.close()
    reason = {"garbage": "COLLECTION_DAMAGED", "empty": "SCHEMA_UNKNOWN", "future": "SCHEMA_TOO_NEW"}
    async with running(settings) as api:
        async with refused(reason.get(how, "STORAGE_FAILED")):
            await api.search("red")
        async with refused("COLLECTION_EXISTS", AlreadyExists):
            await api.create()
        assert await api.ids("red", collection="collections/other") == ["x"]
        await api.stub.DeleteCollection(embedder_pb2.DeleteCollectionRequest(name="collections/photos"))
        await api.create()
        assert await api.ids("red") == []


async def test_leftovers_of_a_crash_are_removed(folder: Path) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.add([("x", picture("red"))])
    tenant = settings.data_dir / "tenants/default"
    (tenant / "trash/old-1234").mkdir()
    (tenant / "trash/old-1234/file").write_bytes(b"x")
    (tenant / "collections/.new-1234").mkdir()
    photos = settings.data_dir / PHOTOS
    (photos / "incoming/half").write_bytes(b"x")
    (photos / "objects/ab").mkdir(exist_ok=True)
    (photos / "objects/ab" / ("c" * 62)).write_bytes(b"x")
    (photos / "clean").unlink()
    async with running(settings) as api:
        assert await api.ids("red") == ["x"]
        assert (await api.content("x"))[1] == picture("red")
        assert not list((tenant / "trash").iterdir())
        assert [path.name for path in (tenant / "collections").iterdir()] == ["photos"]
        assert not list((photos / "incoming").iterdir())
        assert not (photos / "objects/ab" / ("c" * 62)).exists()


async def test_collections(api: Api) -> None:
    async with refused("COLLECTION_EXISTS", AlreadyExists) as seen:
        await api.create()
    assert seen[0].resource == "collections/photos"
    for bad in ("", "A", "a/b", "-a", "x" * 64, ".."):
        async with refused("BAD_ID", InvalidArgument):
            await api.create(bad)
    request = embedder_pb2.CreateCollectionRequest(collection_id="wide", expected_dimensions=512)
    async with refused("DIMENSION_MISMATCH", FailedPrecondition):
        await api.stub.CreateCollection(request)
    for n in range(7):
        made = await api.stub.CreateCollection(
            embedder_pb2.CreateCollectionRequest(
                collection_id=f"c{n}", collection=embedder_pb2.Collection(description=f"number {n}")
            )
        )
        assert made.description == f"number {n}" and made.distance == embedder_pb2.Collection.DISTANCE_INNER_PRODUCT
    names, token = [], ""
    while True:
        page = await api.stub.ListCollections(embedder_pb2.ListCollectionsRequest(page_size=3, page_token=token))
        names += [collection.name for collection in page.collections]
        token = page.next_page_token
        if not token:
            break
        assert len(page.collections) == 3
    assert names == [*(f"collections/c{n}" for n in range(7)), "collections/photos"]
    await api.stub.DeleteCollection(embedder_pb2.DeleteCollectionRequest(name="collections/c3"))
    async with refused("COLLECTION_NOT_FOUND", NotFound):
        await api.stub.DeleteCollection(embedder_pb2.DeleteCollectionRequest(name="collections/c3"))


async def test_pages_of_images(api: Api) -> None:
    await api.add([(f"ü{n:03}", picture("red", n)) for n in range(25)])
    ids, token, pages = [], "", 0
    while True:
        request = embedder_pb2.ListImagesRequest(collection="collections/photos", page_size=10, page_token=token)
        page = await api.stub.ListImages(request)
        ids += [image.image_id for image in page.images]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert ids == [f"ü{n:03}" for n in range(25)] and pages == 3
    first = await api.stub.ListImages(embedder_pb2.ListImagesRequest(collection="collections/photos", page_size=10))
    for bad in ("nonsense", "é", "e30=", first.next_page_token[:-6]):
        async with refused("BAD_PAGE_TOKEN", InvalidArgument):
            await api.stub.ListImages(embedder_pb2.ListImagesRequest(collection="collections/photos", page_token=bad))
    async with refused("BAD_PAGE_TOKEN", InvalidArgument):
        await api.stub.ListCollections(embedder_pb2.ListCollectionsRequest(page_token=first.next_page_token))
    async with refused("BAD_PAGE_SIZE", InvalidArgument):
        await api.stub.ListImages(embedder_pb2.ListImagesRequest(collection="collections/photos", page_size=-1))


async def test_full_disk(folder: Path) -> None:
    """SQLite's own page limit stands for a disk without room: DISK_FULL, and what was acknowledged stays."""
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.add([("x", picture("red"))])
    catalog = Catalog(settings.data_dir)
    catalog.open("tiny@1", 28)
    collection = catalog.get("photos")
    collection.record._writer.execute("PRAGMA max_page_count = 1")
    from services.embedder.collections.model import Add, Facts
    from warmer.errors import ResourceExhausted

    vector = collection.index.view().vectors([0])[0]
    adds = [
        Add(f"n{n}", hashlib.sha256(b"%d" % n).digest(), b"%d" % n, "", Facts("image/png", 1, 1), vector)
        for n in range(500)
    ]
    with pytest.raises(ResourceExhausted) as caught:
        collection.write(adds).result()
    assert caught.value.reason == "DISK_FULL"
    assert collection.index.view().count == collection.info.image_count == 1
    catalog.close()
    async with running(settings) as api:
        assert await api.ids("red") == ["x"]
