"""AddImages and what comes of it: outcomes, order, duplicates, damaged images, backpressure, concurrent clients."""

import asyncio
import hashlib
import io
from pathlib import Path

import grpc
import numpy as np
import pytest
from embedder_kit import Api, picture, refused, running, settings_for
from PIL import Image
from tiny_encoder import TinyEncoder

from services.common.settings import Settings
from warmer.errors import InvalidArgument, NotFound, from_status
from warmer.v1 import embedder_pb2

Outcome = embedder_pb2.AddImagesResult.Outcome


async def test_adds_and_finds(api: Api) -> None:
    items = [(f"{colour}-{n}", picture(colour, n)) for colour in ("red", "green", "blue") for n in range(5)]
    responses = await api.add(items, first=7)
    results = [result for response in responses for result in response.results]
    assert [r.image_id for r in results] == [id for id, _ in items]
    assert [r.offset for r in results] == list(range(7, 22))
    assert all(r.outcome == Outcome.OUTCOME_ADDED and r.status.code == 0 for r in results)
    assert [r.sha256 for r in results] == [hashlib.sha256(content).hexdigest() for _, content in items]
    assert responses[-1].committed_offset == 21
    found = await api.search("green", top_k=5, min_revision=responses[-1].revision)
    assert sorted(hit.image_id for hit in found.hits) == [f"green-{n}" for n in range(5)]
    assert found.hits[0].similarity == found.hits[0].score > 0.8
    assert [t.stage for t in found.timings] == ["embed", "score"]


async def test_image_metadata_and_content(api: Api, settings: Settings) -> None:
    content = picture("pink", 3, "JPEG")
    await api.add([("a photo.jpg", content)])
    image = await api.stub.GetImage(embedder_pb2.GetImageRequest(name="collections/photos/images/a photo.jpg"))
    assert (image.media_type, image.width, image.height, image.size_bytes) == ("image/jpeg", 48, 48, len(content))
    assert image.source == "from/a photo.jpg"
    assert abs(image.create_time.ToSeconds() - __import__("time").time()) < 60
    assert await api.content("a photo.jpg") == ("image/jpeg", content)
    media_type, small = await api.content("a photo.jpg", max_edge=20)
    assert media_type == "image/jpeg"
    assert Image.open(io.BytesIO(small)).size == (20, 20)


async def test_long_content_comes_in_chunks(api: Api, settings: Settings) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP")
    await api.add([("noise", out.getvalue())])
    request = embedder_pb2.GetImageContentRequest(name="collections/photos/images/noise")
    parts = [part async for part in api.stub.GetImageContent(request)]
    assert len(parts) == -(-len(out.getvalue()) // settings.content_chunk_bytes) > 1
    assert b"".join(part.chunk for part in parts) == out.getvalue()
    assert [part.media_type for part in parts] == ["image/bmp"] + [""] * (len(parts) - 1)


async def test_unchanged_is_neither_decoded_nor_embedded_again(api: Api, encoder: TinyEncoder) -> None:
    items = [(f"i{n}", picture("red", n)) for n in range(20)]
    revision = (await api.add(items))[-1].revision
    seen = encoder.images_seen
    again = await api.add(items)
    assert {r.outcome for response in again for r in response.results} == {Outcome.OUTCOME_UNCHANGED}
    assert again[-1].revision == revision
    assert encoder.images_seen == seen


async def test_replacing_an_image(api: Api, settings: Settings) -> None:
    await api.add([("x", picture("red")), ("y", picture("green"))])
    results = await api.results([("x", picture("blue"))])
    assert [r.outcome for r in results] == [Outcome.OUTCOME_REPLACED]
    assert (await api.ids("blue", top_k=1)) == ["x"]
    hits = (await api.search("red")).hits
    assert sorted(hit.image_id for hit in hits) == ["x", "y"]
    assert next(hit for hit in hits if hit.image_id == "x").similarity < 0.3
    assert len(stored_files(settings)) == 2


async def test_same_id_twice_in_one_stream(api: Api, settings: Settings) -> None:
    one, two = picture("red"), picture("blue")
    results = await api.results([("x", one), ("x", two), ("x", one), ("x", one)])
    assert [r.outcome for r in results] == [
        Outcome.OUTCOME_ADDED,
        Outcome.OUTCOME_REPLACED,
        Outcome.OUTCOME_REPLACED,
        Outcome.OUTCOME_UNCHANGED,
    ]
    assert (await api.content("x"))[1] == one
    # Now `one` is known when the stream is read and gone again when it is its turn.
    results = await api.results([("x", two), ("x", one), ("z", two)])
    assert [r.outcome for r in results] == [
        Outcome.OUTCOME_REPLACED,
        Outcome.OUTCOME_REPLACED,
        Outcome.OUTCOME_ADDED,
    ]
    assert (await api.content("x"))[1] == one
    assert (await api.content("z"))[1] == two
    assert await api.ids("red", top_k=1) == ["x"]
    assert len(stored_files(settings)) == 2


async def test_equal_bytes_share_one_file(api: Api, settings: Settings, encoder: TinyEncoder) -> None:
    content = picture("cyan")
    await api.add([("b", content), ("a", content)])
    seen = encoder.images_seen
    await api.add([("c", content)])
    assert encoder.images_seen == seen
    assert len(stored_files(settings)) == 1
    collection = await api.stub.GetCollection(embedder_pb2.GetCollectionRequest(name="collections/photos"))
    assert (collection.image_count, collection.content_bytes) == (3, len(content))
    assert await api.ids("cyan") == ["a", "b", "c"]
    for gone, left in (("b", 1), ("a", 1), ("c", 0)):
        await api.stub.RemoveImages(embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=[gone]))
        assert len(stored_files(settings)) == left
    collection = await api.stub.GetCollection(embedder_pb2.GetCollectionRequest(name="collections/photos"))
    assert (collection.image_count, collection.content_bytes) == (0, 0)


async def test_bad_images_do_not_stop_the_rest(api: Api) -> None:
    whole = picture("orange", 1, "JPEG")
    items = [
        ("ok-1", picture("red")),
        ("empty", b""),
        ("text.jpg", b"this is no picture"),
        ("cut.jpg", whole[: len(whole) // 2]),
        ("a/b", picture("red")),
        ("", picture("red")),
        ("ok-2", picture("blue")),
    ]
    results = await api.results(items)
    reasons = [from_status(r.status).reason if r.status.code else "" for r in results]
    assert reasons == ["", "EMPTY_FILE", "NOT_AN_IMAGE", "DAMAGED_IMAGE", "BAD_ID", "BAD_ID", ""]
    assert all(r.outcome == Outcome.OUTCOME_FAILED and not r.sha256 for r in results[1:6])
    listed = await api.stub.ListImages(embedder_pb2.ListImagesRequest(collection="collections/photos"))
    assert [image.image_id for image in listed.images] == ["ok-1", "ok-2"]


async def test_offsets_must_rise_and_what_came_before_stays(api: Api) -> None:
    async def requests():
        for offset in (1, 5, 5, 6):
            item = embedder_pb2.AddImagesItem(offset=offset, image_id=f"i{offset}", content=picture("red", offset))
            yield embedder_pb2.AddImagesRequest(collection="collections/photos", item=item)

    got = []
    async with refused("BAD_OFFSET", InvalidArgument):
        async for response in api.stub.AddImages(requests()):
            got += [result.offset for result in response.results]
    assert got == [1, 5]
    assert sorted(await api.ids("red")) == ["i1", "i5"]


async def test_stream_without_collection(api: Api) -> None:
    async with refused("BAD_ID"):
        await api.add([("x", picture("red"))], collection="")
    async with refused("COLLECTION_NOT_FOUND", NotFound):
        await api.add([("x", picture("red"))], collection="collections/nothing")


async def test_acknowledgement_comes_while_the_stream_is_open(api: Api) -> None:
    acknowledged = asyncio.Event()

    async def requests():
        item = embedder_pb2.AddImagesItem(offset=1, image_id="x", content=picture("red"))
        yield embedder_pb2.AddImagesRequest(collection="collections/photos", item=item)
        async with asyncio.timeout(10):
            await acknowledged.wait()

    async for response in api.stub.AddImages(requests()):
        assert [hit.image_id for hit in (await api.search("red", min_revision=response.revision)).hits] == ["x"]
        acknowledged.set()


async def test_a_client_that_goes_away_leaves_what_was_committed(api: Api, settings: Settings) -> None:
    async def requests():
        for n in range(10_000):
            item = embedder_pb2.AddImagesItem(offset=n, image_id=f"i{n}", content=picture("red", n))
            yield embedder_pb2.AddImagesRequest(collection="collections/photos", item=item)

    acknowledged: list[str] = []
    call = api.stub.AddImages(requests())
    async for response in call:
        acknowledged += [result.image_id for result in response.results]
        if len(acknowledged) > 50:
            call.cancel()
            break
    found = await api.ids("red", top_k=10_000)
    assert set(acknowledged) <= set(found)
    # Nothing is left half done, and the next stream has all the room.
    more = await api.results([(f"m{n}", picture("blue", n)) for n in range(300)])
    assert {r.outcome for r in more} == {Outcome.OUTCOME_ADDED}
    incoming = settings.data_dir / "tenants/default/collections/photos/incoming"
    async with asyncio.timeout(20):  # what was on its way to the disk is removed once it is there
        while list(incoming.iterdir()):
            await asyncio.sleep(0.05)


async def test_concurrent_clients(api: Api) -> None:
    async def adds(name: str) -> list[embedder_pb2.AddImagesResponse]:
        return await api.add([(f"{name}-{n}", picture("red", n)) for n in range(40)] + [("shared", picture("blue"))])

    async def searches() -> None:
        for _ in range(30):
            hits = (await api.search("red", top_k=200)).hits
            assert len({hit.image_id for hit in hits}) == len(hits)

    *responses, _ = await asyncio.gather(adds("a"), adds("b"), adds("c"), searches())
    assert max(response[-1].revision for response in responses) <= 40
    assert len(await api.ids("red", top_k=1000)) == 121


async def test_small_budget_is_enough(folder: Path) -> None:
    """Images larger than the whole room for bytes pass one by one, and a client that reads nothing stops no other."""
    settings = settings_for(folder, max_image_bytes=40_000, commit_items=2)
    async with running(settings) as api:
        await api.create()
        stalled = api.stub.AddImages(
            embedder_pb2.AddImagesRequest(
                collection="collections/photos",
                item=embedder_pb2.AddImagesItem(offset=n, image_id=f"s{n}", content=picture("red", n)),
            )
            for n in range(2000)
        )
        await asyncio.sleep(0.2)
        results = await api.results([(f"i{n}", picture("blue", n)) for n in range(100)])
        assert {r.outcome for r in results} == {Outcome.OUTCOME_ADDED}
        stalled.cancel()


async def test_removing(api: Api) -> None:
    await api.add([(f"i{n}", picture("red", n)) for n in range(6)])
    request = embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=["i1", "nope", "i3", "i1"])
    response = await api.stub.RemoveImages(request)
    assert (response.removed_count, list(response.missing_image_ids)) == (2, ["nope"])
    assert sorted(await api.ids("red", min_revision=response.revision)) == ["i0", "i2", "i4", "i5"]
    async with refused("IMAGE_NOT_FOUND", NotFound):
        await api.stub.GetImage(embedder_pb2.GetImageRequest(name="collections/photos/images/i1"))
    too_many = embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=["x"] * 10_001)
    async with refused("TOO_MANY", InvalidArgument):
        await api.stub.RemoveImages(too_many)
    results = await api.results([("i1", picture("red", 1))])
    assert results[0].outcome == Outcome.OUTCOME_ADDED
    assert "i1" in await api.ids("red")


async def test_deleting_while_adding(api: Api, settings: Settings) -> None:
    async def requests():
        for n in range(5000):
            item = embedder_pb2.AddImagesItem(offset=n, image_id=f"i{n}", content=picture("red", n))
            yield embedder_pb2.AddImagesRequest(collection="collections/photos", item=item)

    async with refused("COLLECTION_NOT_FOUND", NotFound):
        async for _ in api.stub.AddImages(requests()):
            name = embedder_pb2.DeleteCollectionRequest(name="collections/photos")
            try:
                await api.stub.DeleteCollection(name)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND
    tenant = settings.data_dir / "tenants/default"
    assert list((tenant / "collections").iterdir()) == []
    assert list((tenant / "trash").iterdir()) == []
    await api.create()
    assert await api.ids("red") == []


def stored_files(settings: Settings) -> list[Path]:
    folder = settings.data_dir / "tenants/default/collections/photos/objects"
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
async def test_formats(api: Api, format: str) -> None:
    await api.add([("x", picture("purple", 2, format))])
    image = await api.stub.GetImage(embedder_pb2.GetImageRequest(name="collections/photos/images/x"))
    assert image.media_type == f"image/{format.lower()}"
    assert (await api.search("purple")).hits[0].similarity > 0.8
