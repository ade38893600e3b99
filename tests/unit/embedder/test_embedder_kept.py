"""Captions and vectors kept in a collection: what is kept, what is stale, and what goes with its image or content."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from embedder_kit import Api, picture, refused, running, settings_for

from services.embedder.collections.catalog import Catalog
from services.embedder.collections.model import ImageVector, Without
from warmer.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from warmer.v1 import embedder_pb2

PHOTOS = "collections/photos"
OTHER = "other@7"
CONTENTS = {f"i{n}": picture("red", n) for n in range(6)}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def some_vector(seed: int, dimensions: int = 5) -> bytes:
    vector = np.random.default_rng(seed).normal(size=dimensions)
    return (vector / np.linalg.norm(vector)).astype("<f4").tobytes()


def caption(id: str, content: bytes, text: str, model: str = "cap@1", prompt: str = "") -> embedder_pb2.ImageCaption:
    return embedder_pb2.ImageCaption(
        image_id=id, sha256=sha256(content), text=text, model=model, prompt_version=prompt, tokens=len(text.split())
    )


async def put_captions(api: Api, *captions: embedder_pb2.ImageCaption) -> embedder_pb2.PutCaptionsResponse:
    return await api.stub.PutCaptions(embedder_pb2.PutCaptionsRequest(collection=PHOTOS, captions=captions))


async def captions(api: Api, ids: Sequence[str], model: str = "", prompt: str = "") -> list[tuple[str, str]]:
    request = embedder_pb2.GetCaptionsRequest(collection=PHOTOS, image_ids=ids, model=model, prompt_version=prompt)
    return [(kept.image_id, kept.text) for kept in (await api.stub.GetCaptions(request)).captions]


async def put_vectors(
    api: Api, contents: Mapping[str, bytes], model: str = OTHER, dimensions: int = 5, first: int = 0
) -> embedder_pb2.PutVectorsResponse:
    vectors = [
        embedder_pb2.ImageVector(image_id=id, sha256=sha256(content), vector=some_vector(first + n, dimensions))
        for n, (id, content) in enumerate(contents.items())
    ]
    request = embedder_pb2.PutVectorsRequest(collection=PHOTOS, model=model, dimensions=dimensions, vectors=vectors)
    return await api.stub.PutVectors(request)


async def listed(api: Api, page_size: int = 0, **without: str) -> list[str]:
    ids, token = [], ""
    while True:
        request = embedder_pb2.ListImagesRequest(collection=PHOTOS, page_size=page_size, page_token=token, **without)
        page = await api.stub.ListImages(request)
        ids += [image.image_id for image in page.images]
        token = page.next_page_token
        if not token:
            return ids


async def state(api: Api) -> embedder_pb2.Collection:
    return await api.stub.GetCollection(embedder_pb2.GetCollectionRequest(name=PHOTOS))


async def sets(api: Api) -> dict[str, tuple[int, int]]:
    return {kept.model: (kept.dimensions, kept.image_count) for kept in (await state(api)).vector_sets}


async def remove(api: Api, *ids: str) -> None:
    await api.stub.RemoveImages(embedder_pb2.RemoveImagesRequest(collection=PHOTOS, image_ids=ids))


async def test_captions_are_kept_by_content_model_and_prompt(api: Api) -> None:
    await api.add([*CONTENTS.items(), ("twin", CONTENTS["i0"])])
    before = await state(api)
    answer = await put_captions(
        api,
        caption("i0", CONTENTS["i0"], "a red wall"),
        caption("i0", CONTENTS["i0"], "ein rotes Bild, größer 日本", prompt="de"),
        caption("i1", CONTENTS["i1"], "another wall"),
        caption("i2", CONTENTS["i3"], "of another content"),
        caption("nobody", CONTENTS["i3"], "of nobody"),
    )
    assert (answer.stored_count, list(answer.stale_image_ids)) == (3, ["i2", "nobody"])
    assert await captions(api, ["i1", "i0", "i5", "nobody"], "cap@1") == [("i1", "another wall"), ("i0", "a red wall")]
    assert await captions(api, ["i0"], "cap@1", "de") == [("i0", "ein rotes Bild, größer 日本")]
    assert await captions(api, ["i0"], "cap@2") == []
    assert await captions(api, ["twin"], "cap@1") == [("twin", "a red wall")], "a caption belongs to the content"
    assert await state(api) == before, "captions are not searched: nobody needs to follow them"
    await put_captions(api, caption("i0", CONTENTS["i0"], "a better sentence"))
    assert await captions(api, ["twin", "twin"], "cap@1") == [("twin", "a better sentence")]


async def test_the_newest_caption_of_any_model(api: Api) -> None:
    await api.add(CONTENTS.items())
    await put_captions(api, caption("i0", CONTENTS["i0"], "first", "b"))
    await asyncio.sleep(0.002)
    await put_captions(api, caption("i0", CONTENTS["i0"], "second", "a", "p"))
    assert await captions(api, ["i0"]) == [("i0", "second")]
    await asyncio.sleep(0.002)
    await put_captions(api, caption("i0", CONTENTS["i0"], "first again", "b"))
    assert await captions(api, ["i0"]) == [("i0", "first again")]


async def test_a_caption_goes_with_the_last_image_of_its_content(api: Api) -> None:
    content = CONTENTS["i0"]
    await api.add([("one", content), ("two", content)])
    await put_captions(api, caption("one", content, "red"))
    await remove(api, "one")
    assert await captions(api, ["two"], "cap@1") == [("two", "red")]
    await api.add([("two", CONTENTS["i1"])])
    await api.add([("three", content)])
    assert await captions(api, ["two", "three"], "cap@1") == []
    assert await listed(api, without_captions_of="cap@1") == ["three", "two"]


async def test_lists_of_what_lacks_something(api: Api) -> None:
    await api.add(CONTENTS.items())
    await put_captions(api, caption("i1", CONTENTS["i1"], "x", prompt="p"), caption("i4", CONTENTS["i4"], "x"))
    assert await listed(api, without_captions_of="cap@1") == ["i0", "i1", "i2", "i3", "i5"]
    prompt = {"without_captions_of": "cap@1", "without_captions_prompt_version": "p"}
    assert await listed(api, 2, **prompt) == ["i0", "i2", "i3", "i4", "i5"]
    assert await listed(api, 1, without_captions_of="never") == list(CONTENTS)
    assert await listed(api, without_vectors_of="tiny@1") == [], "its own model made them all"
    assert await listed(api, 4, without_vectors_of=OTHER) == list(CONTENTS)
    await put_vectors(api, {id: CONTENTS[id] for id in ("i0", "i2", "i4")})
    assert await listed(api, 2, without_vectors_of=OTHER) == ["i1", "i3", "i5"]
    assert await listed(api, without_vectors_of=OTHER, **prompt) == ["i3", "i5"]


async def test_vectors_are_kept_beside_those_that_are_searched(api: Api) -> None:
    await api.add(CONTENTS.items())
    before, found = await state(api), await api.search("red", top_k=100)
    answer = await put_vectors(api, {"i0": CONTENTS["i0"], "i1": CONTENTS["i2"], "nobody": b""})
    assert (answer.stored_count, list(answer.stale_image_ids)) == (1, ["i1", "nobody"])
    assert (answer.missing_count, answer.adopted) == (5, False)
    assert (await put_vectors(api, {"i0": CONTENTS["i0"]})).missing_count == 5, "the same again changes nothing"
    answer = await put_vectors(api, CONTENTS)
    assert (answer.stored_count, answer.missing_count, answer.adopted) == (6, 0, False)
    assert await sets(api) == {OTHER: (5, 6)}
    await put_vectors(api, {"i3": CONTENTS["i3"]}, "third@1", 3)
    assert await sets(api) == {OTHER: (5, 6), "third@1": (3, 1)}
    after, same = await state(api), await api.search("red", top_k=100)
    assert same.hits == found.hits
    assert (after.revision, after.model, after.update_time) == (before.revision, "tiny@1", before.update_time)


async def test_kept_vectors_go_with_their_image(api: Api) -> None:
    await api.add(CONTENTS.items())
    await put_vectors(api, CONTENTS)
    await put_vectors(api, {"i0": CONTENTS["i0"]}, "third@1", 3)
    await remove(api, "i0", "i1")
    assert await sets(api) == {OTHER: (5, 4), "third@1": (3, 0)}
    await api.add([("i2", picture("green")), ("i6", picture("blue"))])
    assert await sets(api) == {OTHER: (5, 3), "third@1": (3, 0)}
    assert await listed(api, without_vectors_of=OTHER) == ["i2", "i6"]
    await api.add([("copy", CONTENTS["i3"]), ("i6", CONTENTS["i4"])])
    assert await sets(api) == {OTHER: (5, 5), "third@1": (3, 0)}, "images of one content share their vectors"
    await remove(api, "i3")
    assert await listed(api, without_vectors_of=OTHER) == ["i2"]
    answer = await put_vectors(api, {})
    assert (answer.stored_count, answer.missing_count) == (0, 1)


async def test_forgetting_vectors(api: Api) -> None:
    await api.add(CONTENTS.items())
    await put_vectors(api, CONTENTS)

    async def forget(model: str) -> None:
        await api.stub.DeleteVectors(embedder_pb2.DeleteVectorsRequest(collection=PHOTOS, model=model))

    async with refused("VECTORS_IN_USE", FailedPrecondition) as seen:
        await forget("tiny@1")
    assert seen[0].resource == PHOTOS
    async with refused("BAD_MODEL", InvalidArgument):
        await forget("")
    await forget(OTHER)
    assert await sets(api) == {}
    assert await listed(api, without_vectors_of=OTHER) == list(CONTENTS)
    async with refused("VECTORS_NOT_FOUND", NotFound):
        await forget(OTHER)
    assert (await put_vectors(api, {"i0": CONTENTS["i0"]}, dimensions=9)).stored_count == 1, "of any length now"


async def test_vectors_of_another_length_are_refused(api: Api) -> None:
    await api.add(CONTENTS.items())
    await put_vectors(api, {"i0": CONTENTS["i0"]})
    both = asyncio.gather(
        put_vectors(api, {"i1": CONTENTS["i1"]}, dimensions=6),
        put_vectors(api, {"i2": CONTENTS["i2"]}),
        return_exceptions=True,
    )
    refusal, fine = await both
    assert fine.stored_count == 1, "who shares a transaction with a refused request is not hurt"
    async with refused("DIMENSION_MISMATCH", FailedPrecondition) as seen:
        raise refusal
    assert OTHER in seen[0].message
    async with refused("DIMENSION_MISMATCH", FailedPrecondition):
        await put_vectors(api, {"i1": CONTENTS["i1"]}, "tiny@1")
    assert await sets(api) == {OTHER: (5, 2)}


GOOD = sha256(CONTENTS["i0"])


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"image_id": ""}, "BAD_ID", "image_id"),
        ({"image_id": "a/b"}, "BAD_ID", "image_id"),
        ({"sha256": ""}, "BAD_SHA256", "captions[1].sha256"),
        ({"sha256": GOOD[:-1] + "x"}, "BAD_SHA256", "captions[1].sha256"),
        ({"sha256": GOOD + "00"}, "BAD_SHA256", "captions[1].sha256"),
        ({"text": " \n"}, "EMPTY_CAPTION", "captions[1].text"),
        ({"text": "é" * 8193}, "CAPTION_TOO_LONG", "captions[1].text"),
        ({"model": ""}, "BAD_MODEL", "captions[1].model"),
        ({"model": "m" * 513}, "BAD_MODEL", "captions[1].model"),
        ({"prompt_version": "p" * 513}, "BAD_VALUE", "captions[1].prompt_version"),
    ],
)
async def test_bad_captions(api: Api, fields: dict[str, str], reason: str, field: str) -> None:
    await api.add(CONTENTS.items())
    good = {"image_id": "i0", "sha256": GOOD, "text": "red", "model": "cap@1"}
    bad = embedder_pb2.ImageCaption(**(good | fields))
    async with refused(reason, InvalidArgument) as seen:
        await put_captions(api, caption("i1", CONTENTS["i1"], "fine"), bad)
    assert seen[0].field == field and seen[0].hint
    assert await captions(api, ["i1"], "cap@1") == [], "nothing of the request is kept"


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (b"", "DIMENSION_MISMATCH"),
        (some_vector(0, 6), "DIMENSION_MISMATCH"),
        (some_vector(0)[:-1], "DIMENSION_MISMATCH"),
        (np.zeros(5, "<f4").tobytes(), "BAD_VECTOR"),
        (np.full(5, np.nan, "<f4").tobytes(), "BAD_VECTOR"),
        (np.full(5, np.inf, "<f4").tobytes(), "BAD_VECTOR"),
        (np.full(5, 1e30, "<f4").tobytes(), "BAD_VECTOR"),
        ((1.01 * np.frombuffer(some_vector(0), "<f4")).tobytes(), "BAD_VECTOR"),
    ],
)
async def test_bad_vectors(api: Api, vector: bytes, reason: str) -> None:
    await api.add(CONTENTS.items())
    vectors = [
        embedder_pb2.ImageVector(image_id="i0", sha256=GOOD, vector=some_vector(1)),
        embedder_pb2.ImageVector(image_id="i1", sha256=sha256(CONTENTS["i1"]), vector=vector),
    ]
    request = embedder_pb2.PutVectorsRequest(collection=PHOTOS, model=OTHER, dimensions=5, vectors=vectors)
    async with refused(reason, InvalidArgument) as seen:
        await api.stub.PutVectors(request)
    assert seen[0].field == "vectors[1].vector"
    assert await sets(api) == {}


async def test_bad_requests(api: Api) -> None:
    vector = embedder_pb2.ImageVector(image_id="i0", sha256=GOOD, vector=some_vector(0))
    good = {"collection": PHOTOS, "model": OTHER, "dimensions": 5, "vectors": [vector]}
    for fields, reason in (
        ({"model": ""}, "BAD_MODEL"),
        ({"dimensions": 0}, "BAD_VALUE"),
        ({"dimensions": 1_000_000}, "BAD_VALUE"),
        ({"vectors": [vector] * 1001}, "TOO_MANY"),
        ({"collection": "photos"}, "BAD_ID"),
    ):
        async with refused(reason, InvalidArgument):
            await api.stub.PutVectors(embedder_pb2.PutVectorsRequest(**(good | fields)))
    one = caption("i0", CONTENTS["i0"], "x")
    async with refused("TOO_MANY", InvalidArgument):
        await put_captions(api, *[one] * 1001)
    async with refused("TOO_MANY", InvalidArgument):
        await captions(api, [f"{n}" for n in range(1001)])
    nowhere = {"collection": "collections/nowhere"}
    for call in (
        api.stub.PutVectors(embedder_pb2.PutVectorsRequest(**(good | nowhere))),
        api.stub.PutCaptions(embedder_pb2.PutCaptionsRequest(**nowhere)),
        api.stub.GetCaptions(embedder_pb2.GetCaptionsRequest(**nowhere)),
        api.stub.DeleteVectors(embedder_pb2.DeleteVectorsRequest(**nowhere, model="m")),
    ):
        async with refused("COLLECTION_NOT_FOUND", NotFound):
            await call


async def test_what_is_kept_survives_a_restart(folder: Path) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.add(CONTENTS.items())
        await put_captions(api, caption("i0", CONTENTS["i0"], "red"))
        await put_vectors(api, {"i0": CONTENTS["i0"]})
    async with running(settings) as api:
        assert await captions(api, ["i0"], "cap@1") == [("i0", "red")]
        assert await sets(api) == {OTHER: (5, 1)}
        assert len(await api.ids("red", top_k=100)) == len(CONTENTS)


async def test_a_full_disk_keeps_what_was_acknowledged(folder: Path) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.add(CONTENTS.items())
        await put_vectors(api, {"i0": CONTENTS["i0"]})
    catalog = Catalog(settings.data_dir)
    catalog.open("tiny@1", 28)
    collection = catalog.get("photos")
    collection.record._writer.execute("PRAGMA max_page_count = 1")
    images = collection.images_after("", 100, Without())
    vectors = [ImageVector(image.image_id, image.sha256, "huge", some_vector(0, 20_000)) for image in images]
    with pytest.raises(ResourceExhausted) as caught:
        collection.write(vectors).result()
    assert caught.value.reason == "DISK_FULL"
    assert [kept.model for kept in collection.info.vector_sets] == [OTHER]
    assert collection.record.info() == collection.info
    catalog.close()
