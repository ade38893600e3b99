"""Vectors of another model are taken over when they are complete: at once, at opening, and whole or not at all."""

import hashlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from embedder_kit import Api, picture, refused, running, settings_for
from kept_kit import check, unit
from tiny_encoder import TinyEncoder, TurnedEncoder

from services.embedder.collections import keeping, record
from warmer.errors import FailedPrecondition, ResourceExhausted
from warmer.v1 import common_pb2, embedder_pb2

PHOTOS = "collections/photos"
FOLDER = "tenants/default/collections/photos"
CONTENTS = {f"{colour}-{n}": picture(colour, n) for colour in ("red", "green", "blue") for n in range(3)}
READY, MISMATCH = embedder_pb2.Collection.STATE_READY, embedder_pb2.Collection.STATE_MODEL_MISMATCH


async def vectors_of(encoder: TinyEncoder, folder: Path) -> dict[str, bytes]:
    """What the encoder makes of all pictures, by its own server."""
    other = settings_for(folder / "other")
    (folder / "other").mkdir(exist_ok=True)
    async with running(other, encoder) as api:
        response = await api.stub.EmbedImages(embedder_pb2.EmbedImagesRequest(images=CONTENTS.values()))
    return dict(zip(CONTENTS, (e.vector for e in response.embeddings), strict=True))


def put(vectors: dict[str, bytes], model: str = "turned@1", dimensions: int = 32) -> embedder_pb2.PutVectorsRequest:
    items = [
        embedder_pb2.ImageVector(image_id=id, sha256=hashlib.sha256(CONTENTS[id]).hexdigest(), vector=vector)
        for id, vector in vectors.items()
    ]
    return embedder_pb2.PutVectorsRequest(collection=PHOTOS, model=model, dimensions=dimensions, vectors=items)


async def state(api: Api) -> embedder_pb2.Collection:
    return await api.stub.GetCollection(embedder_pb2.GetCollectionRequest(name=PHOTOS))


@pytest.fixture
async def turned(folder: Path) -> dict[str, bytes]:
    """The pictures' vectors by the other model; the collection is there, made by the tiny model."""
    vectors = await vectors_of(TurnedEncoder(), folder)
    async with running(settings_for(folder)) as api:
        await api.create()
        await api.add(CONTENTS.items())
    return vectors


async def found(api: Api) -> dict[str, float]:
    return {hit.image_id: round(hit.score, 3) for hit in (await api.search("red", top_k=100)).hits}


async def test_a_server_with_the_new_model_takes_them_at_once(folder: Path, turned: dict[str, bytes]) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        before, expected = await state(api), await found(api)
    async with running(settings, TurnedEncoder()) as api:
        async with refused("MODEL_MISMATCH", FailedPrecondition) as seen:
            await api.search("red")
        assert "9 of 9 images" in seen[0].message and "warmer collections reembed photos" in seen[0].hint
        some = dict(list(turned.items())[:5])
        answer = await api.stub.PutVectors(put(some))
        assert (answer.missing_count, answer.adopted) == (4, False)
        async with refused("MODEL_MISMATCH", FailedPrecondition) as seen:
            await api.search("red")
        assert "4 of 9 images" in seen[0].message
        answer = await api.stub.PutVectors(put({id: turned[id] for id in turned if id not in some}))
        assert (answer.stored_count, answer.missing_count, answer.adopted) == (4, 0, True)
        now = await state(api)
        assert (now.model, now.dimensions, now.state) == ("turned@1", 32, READY)
        assert now.revision > before.revision and now.image_count == 9
        assert [(kept.model, kept.image_count) for kept in now.vector_sets] == [("tiny@1", 9)]
        assert await found(api) == expected, "turned axes change no inner product"
        await api.add([("red-9", picture("red", 9))])
        assert len(await found(api)) == 10
        answer = await api.stub.PutVectors(put(some))
        assert (answer.stored_count, answer.missing_count, answer.adopted) == (0, 0, True), "they are there already"


async def test_a_server_with_the_old_model_goes_on_until_the_new_one_comes(
    folder: Path, turned: dict[str, bytes]
) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        expected = await found(api)
        answer = await api.stub.PutVectors(put(turned))
        assert (answer.missing_count, answer.adopted) == (0, False)
        assert (await state(api)).model == "tiny@1"
        assert await found(api) == expected
        await api.add([("late", picture("red", 20))])
    async with running(settings, TurnedEncoder()) as api:
        assert (await state(api)).state == MISMATCH
        async with refused("MODEL_MISMATCH", FailedPrecondition) as seen:
            await api.search("red")
        assert "1 of 10 images" in seen[0].message
    async with running(settings) as api:
        assert len(await found(api)) == 10, "the old model still can"
        await api.stub.RemoveImages(embedder_pb2.RemoveImagesRequest(collection=PHOTOS, image_ids=["late"]))
    async with running(settings, TurnedEncoder()) as api:
        assert (await state(api)).state == READY
        assert await found(api) == expected
    async with running(settings) as api:
        assert await found(api) == expected, "the way back is open"


async def test_removing_what_cannot_be_embedded_completes_the_set(folder: Path, turned: dict[str, bytes]) -> None:
    async with running(settings_for(folder), TurnedEncoder()) as api:
        del turned["blue-2"]
        assert (await api.stub.PutVectors(put(turned))).missing_count == 1
        removed = await api.stub.RemoveImages(embedder_pb2.RemoveImagesRequest(collection=PHOTOS, image_ids=["blue-2"]))
        assert removed.removed_count == 1
        assert (await state(api)).state == READY
        assert len(await found(api)) == 8


async def test_what_works_on_a_collection_of_another_model(folder: Path, turned: dict[str, bytes]) -> None:
    async with running(settings_for(folder), TurnedEncoder()) as api:
        listed = await api.stub.ListImages(
            embedder_pb2.ListImagesRequest(collection=PHOTOS, without_vectors_of="turned@1")
        )
        assert len(listed.images) == 9
        assert (await api.content("red-0"))[1] == CONTENTS["red-0"]
        caption = embedder_pb2.ImageCaption(
            image_id="red-0", sha256=listed.images[6].sha256, text="red", model="cap@1", tokens=1
        )
        stored = await api.stub.PutCaptions(embedder_pb2.PutCaptionsRequest(collection=PHOTOS, captions=[caption]))
        assert stored.stored_count == 1
        kept = await api.stub.GetCaptions(embedder_pb2.GetCaptionsRequest(collection=PHOTOS, image_ids=["red-0"]))
        assert list(kept.captions) == [caption]
        await api.stub.PutVectors(put(turned))
        kept = await api.stub.GetCaptions(embedder_pb2.GetCaptionsRequest(collection=PHOTOS, image_ids=["red-0"]))
        assert list(kept.captions) == [caption], "captions do not care"


async def test_an_empty_collection_takes_any_model(folder: Path) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
    async with running(settings, TurnedEncoder()) as api:
        assert (await state(api)).state == READY
        await api.add(CONTENTS.items())
        assert len(await found(api)) == 9
        assert not (await state(api)).vector_sets


async def test_vectors_of_the_right_name_and_the_wrong_length_are_not_taken(
    folder: Path, turned: dict[str, bytes]
) -> None:
    shorter = {id: unit(np.frombuffer(vector, "<f4")[:28]) for id, vector in turned.items()}
    async with running(settings_for(folder), TurnedEncoder()) as api:
        answer = await api.stub.PutVectors(put(shorter, dimensions=28))
        assert (answer.missing_count, answer.adopted) == (0, False)
        assert (await state(api)).state == MISMATCH


async def test_an_old_snapshot_of_the_same_model_is_not_used(folder: Path, turned: dict[str, bytes]) -> None:
    """The vectors of a model may be other ones when it comes back, under the same numbers."""
    settings = settings_for(folder)
    async with running(settings, TurnedEncoder()) as api:
        await api.stub.PutVectors(put(turned))
        await found(api)
    assert (settings.data_dir / FOLDER / "index/index.json").exists()
    shutil.copytree(settings.data_dir / FOLDER / "index", folder / "index")
    async with running(settings) as api:
        mixed = dict(zip(turned, [*list(turned.values())[1:], turned["red-0"]], strict=True))
        await api.stub.PutVectors(put(mixed))
    shutil.rmtree(settings.data_dir / FOLDER / "index")
    shutil.move(folder / "index", settings.data_dir / FOLDER / "index")
    async with running(settings, TurnedEncoder()) as api:
        term = common_pb2.QueryTerm(vector=mixed["green-1"])
        assert (await api.ids(term, top_k=1)) == ["green-1"]


@pytest.mark.parametrize("moment", ["before", "within", "after"])
async def test_a_crash_leaves_one_model_or_the_other(
    folder: Path, turned: dict[str, bytes], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk at three moments of taking over, as a crash would leave it, opened by both models."""
    settings, crashed = settings_for(folder), folder / "crashed"
    adopt, adopted = keeping.adopt, record.Record.adopt

    def copy() -> None:
        shutil.copytree(settings.data_dir, crashed / "data")

    def watched(*args):
        if moment == "before":
            copy()
        info = adopt(*args)
        if moment == "within":
            copy()
        return info

    def watched_whole(*args):
        info = adopted(*args)
        if moment == "after":
            copy()
        return info

    async with running(settings) as api:
        expected = await found(api)
        await api.stub.PutVectors(put(turned))
    monkeypatch.setattr(keeping, "adopt", watched)
    monkeypatch.setattr(record.Record, "adopt", watched_whole)
    async with running(settings, TurnedEncoder()) as api:
        assert await found(api) == expected
    monkeypatch.undo()
    for encoder in (TinyEncoder(), TurnedEncoder(), TinyEncoder()):
        async with running(settings_for(crashed), encoder) as api:
            now = await state(api)
            assert (now.model, now.state) == (encoder.id, READY)
            assert await found(api) == expected
            check(crashed / "data" / FOLDER)


async def test_a_full_disk_leaves_the_old_vectors(
    folder: Path, turned: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, adopt = settings_for(folder), keeping.adopt

    def full(*args):
        adopt(*args)
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    async with running(settings, TurnedEncoder()) as api:
        monkeypatch.setattr(keeping, "adopt", full)
        async with refused("DISK_FULL", ResourceExhausted):
            await api.stub.PutVectors(put(turned))
        now = await state(api)
        assert (now.state, now.vector_sets[0].image_count) == (MISMATCH, 9), "the vectors themselves are kept"
        await api.stub.RemoveImages(embedder_pb2.RemoveImagesRequest(collection=PHOTOS, image_ids=["blue-2"]))
        monkeypatch.undo()
        assert (await api.stub.PutVectors(put({}))).adopted
        assert len(await found(api)) == 8


async def test_a_set_that_is_not_what_its_count_says_is_not_taken(folder: Path, turned: dict[str, bytes]) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.stub.PutVectors(put(turned))
    connection = sqlite3.connect(settings.data_dir / FOLDER / "collection.sqlite3")
    connection.execute("DELETE FROM kept_vectors WHERE number = 3")
    connection.commit()
    connection.close()
    async with running(settings, TurnedEncoder()) as api:
        assert (await state(api)).state == MISMATCH
    async with running(settings) as api:
        assert len(await found(api)) == 9
