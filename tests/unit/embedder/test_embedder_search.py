"""Search and RankImages through the real server, compared with plain numpy over the vectors that EmbedImages gives."""

import asyncio

import numpy as np
import pytest
from embedder_kit import Api, picture, refused, running, settings_for, spec_of
from test_embedder_ranking import naive_log_likelihood
from tiny_encoder import COLOURS, TinyEncoder

from warmer.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, from_status
from warmer.v1 import common_pb2, embedder_pb2

Term, Preference = common_pb2.QueryTerm, common_pb2.Preference
IMAGES = [(f"{colour}-{n}", picture(colour, n)) for n in range(12) for colour in COLOURS]
IDS = [id for id, _ in IMAGES]


async def vectors_of(api: Api) -> np.ndarray:
    response = await api.stub.EmbedImages(embedder_pb2.EmbedImagesRequest(images=[content for _, content in IMAGES]))
    assert response.dimensions == TinyEncoder.dimensions and response.model == "tiny@1"
    return np.stack([np.frombuffer(e.vector, "<f4") for e in response.embeddings]).astype(np.float64)


async def text_vector(api: Api, text: str) -> np.ndarray:
    response = await api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=[text]))
    return np.frombuffer(response.vectors, "<f4").astype(np.float64)


async def test_weighted_terms(api: Api) -> None:
    await api.add(IMAGES)
    vectors = await vectors_of(api)
    raw = np.random.default_rng(0).normal(size=TinyEncoder.dimensions).astype("<f4")
    terms = [
        Term(text="red sky"),
        Term(image=picture("blue", 77), weight=0.5),
        Term(image_id="green-3", weight=-0.7),
        Term(vector=(raw * 9).tobytes(), weight=0.3),
    ]
    other = await api.stub.EmbedImages(embedder_pb2.EmbedImagesRequest(images=[picture("blue", 77)]))
    parts = [
        await text_vector(api, "red sky"),
        np.frombuffer(other.embeddings[0].vector, "<f4"),
        vectors[IDS.index("green-3")],
        raw / np.linalg.norm(raw),
    ]
    query = np.array([1, 0.5, -0.7, 0.3]) @ np.stack(parts)
    similarities = vectors @ (query / np.linalg.norm(query))
    expected = sorted(range(len(IDS)), key=lambda i: (-similarities[i], IDS[i]))
    hits = (await api.search(*terms, top_k=len(IDS))).hits
    got = {hit.image_id: hit.similarity for hit in hits}
    assert [hit.image_id for hit in hits[:20]] == [IDS[i] for i in expected[:20]]
    np.testing.assert_allclose([got[id] for id in IDS], similarities, atol=1e-5)


async def test_default_top_k_exclusions_and_cutoff(api: Api) -> None:
    await api.add(IMAGES)
    everything = await api.ids("red", top_k=10_000)
    assert len(everything) == len(IDS)
    assert await api.ids("red") == everything[:10]
    excluded = [everything[0], everything[3], "unknown"]
    assert await api.ids("red", excluded_image_ids=excluded, top_k=5) == [*everything[1:3], *everything[4:7]]
    many = everything[: len(IDS) - 4]
    assert await api.ids("red", excluded_image_ids=many, top_k=50) == everything[-4:]
    hits = (await api.search("red", min_similarity=0.8, top_k=100)).hits
    assert 0 < len(hits) <= 12 and all(hit.similarity >= 0.8 for hit in hits)
    assert not (await api.search("red", min_similarity=1.01)).hits


@pytest.mark.parametrize("lapse", [0.0, 0.1])
async def test_preferences_follow_the_formula(api: Api, lapse: float) -> None:
    await api.add(IMAGES)
    vectors = await vectors_of(api)
    rounds = [
        Preference(
            relevant_image_ids=["blue-1", "cyan-2"],
            irrelevant_image_ids=["red-1"],
            unmarked_image_ids=["green-1", "pink-4", "grey-5"],
            temperature=0.2,
            lapse=lapse,
        ),
        Preference(irrelevant_image_ids=["blue-2"], unmarked_image_ids=["red-3", "black-1"], lapse=lapse),
        Preference(unmarked_image_ids=["white-1"]),
    ]
    spec = spec_of("red", preferences=rounds, prior_temperature=0.08, top_k=1000, excluded_image_ids=["red-0"])
    hits = (await api.stub.Search(embedder_pb2.SearchRequest(search=spec))).hits
    similarities = vectors @ await text_vector(api, "red")
    expected = {}
    for row, id in enumerate(IDS):
        total = 0.0
        for r, tau in zip(rounds, (0.2, 0.25, 0.25), strict=True):
            parts = [
                [float(vectors[IDS.index(d)] @ vectors[row]) for d in ids]
                for ids in (r.relevant_image_ids, r.irrelevant_image_ids, r.unmarked_image_ids)
            ]
            total += naive_log_likelihood(*parts, tau, lapse)
        expected[id] = similarities[row] + 0.08 * total
    got = {hit.image_id: hit.score for hit in hits}
    assert set(got) == set(IDS) - {"red-0"}
    np.testing.assert_allclose([got[id] for id in got], [expected[id] for id in got], atol=1e-4)
    assert [hit.score for hit in hits] == sorted(got.values(), reverse=True)

    request = embedder_pb2.RankImagesRequest(search=spec, image_ids=[*IDS, "nope"], apply_exclusions=True)
    ranked = await api.stub.RankImages(request)
    assert ranked.candidates == len(IDS) - 1
    ranks = {rank.image_id: rank for rank in ranked.ranks}
    assert [ranks[hit.image_id].rank for hit in hits] == list(range(1, len(IDS)))
    assert [ranks[hit.image_id].score for hit in hits] == [hit.score for hit in hits]
    assert not ranks["nope"].HasField("rank") and not ranks["red-0"].HasField("rank")
    request.apply_exclusions = False
    ranked = await api.stub.RankImages(request)
    assert ranked.candidates == len(IDS)
    assert ranked.ranks[0].image_id == "red-0" and ranked.ranks[0].HasField("rank")


async def test_order_of_equal_scores_is_that_of_ids_not_of_insertion(folder) -> None:
    same = picture("purple", 1)
    filler = [(f"f{n}", picture("grey", n)) for n in range(60)]
    names = [f"n{n:02}" for n in range(40)]
    orders = []
    for turn, order in enumerate((names, names[::-1])):
        (folder / str(turn)).mkdir()
        async with running(settings_for(folder / str(turn))) as api:
            await api.create()
            cut = 3 + 40 * turn
            await api.add([*filler[:cut], *((id, same) for id in order), *filler[cut:]])
            marks = Preference(relevant_image_ids=["n05"], unmarked_image_ids=["f1", "f2"])
            found = [
                await api.ids("purple", top_k=7),
                await api.ids("purple", top_k=40),
                await api.ids("purple", top_k=33, preferences=[marks]),
            ]
            request = embedder_pb2.RankImagesRequest(search=spec_of("purple"), image_ids=names)
            found.append([rank.rank for rank in (await api.stub.RankImages(request)).ranks])
            orders.append(found)
    assert orders[0] == orders[1] == [names[:7], names, names[:33], list(range(1, 41))]


async def test_text_longer_than_the_encoder_reads(api: Api) -> None:
    await api.add(IMAGES)
    text = "red one two three four five six seven eight"
    response = await api.search(Term(image_id="red-0"), text)
    assert [(t.index, t.tokens, t.max_tokens) for t in response.truncations] == [(1, 11, 8)]
    response = await api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=["red", text]))
    assert [(t.index, t.tokens, t.max_tokens) for t in response.truncations] == [(1, 11, 8)]
    assert len(response.vectors) == 2 * 4 * response.dimensions


NAN = np.array([np.nan] * TinyEncoder.dimensions, "<f4").tobytes()
ZERO = np.zeros(TinyEncoder.dimensions, "<f4").tobytes()
SHORT = np.ones(7, "<f4").tobytes()
BAD_SEARCHES = [
    ("EMPTY_QUERY", "search.terms", {}, []),
    ("EMPTY_QUERY", "search.terms[0].text", {}, [""]),
    ("EMPTY_QUERY", "search.terms[1].text", {}, ["red", " \t\n"]),
    ("EMPTY_QUERY", "search.terms[0]", {}, [Term(weight=2)]),
    ("ZERO_QUERY", "search.terms", {}, ["red", Term(text="red", weight=-1)]),
    ("ZERO_QUERY", "search.terms[0].vector", {}, [Term(vector=ZERO)]),
    ("BAD_VECTOR", "search.terms[0].vector", {}, [Term(vector=NAN)]),
    ("BAD_VECTOR", "search.terms[0].vector", {}, [Term(vector=b"abc")]),
    ("DIMENSION_MISMATCH", "search.terms[0].vector", {}, [Term(vector=SHORT)]),
    ("DIMENSION_MISMATCH", "search.terms[1].vector", {}, ["red", Term(vector=SHORT)]),
    ("BAD_WEIGHT", "search.terms[0].weight", {}, [Term(text="red", weight=float("inf"))]),
    ("NOT_AN_IMAGE", "search.terms[0].image", {}, [Term(image=b"no picture")]),
    ("TOO_MANY", "search.terms", {}, ["red"] * 101),
    ("BAD_TOP_K", "search.top_k", {"top_k": 1_000_000}, ["red"]),
    ("BAD_TOP_K", "search.top_k", {"top_k": 10_001}, ["red"]),
    ("BAD_VALUE", "search.min_similarity", {"min_similarity": float("nan")}, ["red"]),
    ("BAD_TEMPERATURE", "search.prior_temperature", {"prior_temperature": -1.0}, ["red"]),
    ("BAD_TEMPERATURE", "search.preferences[0].temperature", {"preferences": [Preference(temperature=-1)]}, ["red"]),
    ("BAD_VALUE", "search.preferences[0].lapse", {"preferences": [Preference(lapse=1)]}, ["red"]),
    (
        "CONFLICTING_MARKS",
        "search.preferences[0]",
        {"preferences": [Preference(relevant_image_ids=["red-0"], unmarked_image_ids=["red-0"])]},
        ["red"],
    ),
    ("BAD_ID", "name", {"collection": "photos"}, ["red"]),
]


async def test_bad_searches(api: Api) -> None:
    await api.add(IMAGES[:12])
    for reason, field, spec, terms in BAD_SEARCHES:
        async with refused(reason, InvalidArgument) as seen:
            await api.search(*terms, **spec)
        assert seen[0].field == field, (reason, seen[0].field)
        assert seen[0].hint, reason
    async with refused("DIMENSION_MISMATCH") as seen:
        await api.search(Term(vector=SHORT))
    assert "7" in seen[0].message and str(TinyEncoder.dimensions) in seen[0].message


async def test_unknown_images_and_collections(api: Api) -> None:
    await api.add(IMAGES[:12])
    async with refused("IMAGE_NOT_FOUND", NotFound) as seen:
        await api.search(Term(image_id="nope"))
    assert seen[0].field == "search.terms" and "nope" in seen[0].message
    async with refused("COLLECTION_NOT_FOUND", NotFound) as seen:
        await api.search("red", collection="collections/nothing")
    assert seen[0].resource == "collections/nothing"


async def test_evidence_of_images_that_are_gone_is_left_out(api: Api) -> None:
    await api.add(IMAGES[:12])
    ids = [id for id, _ in IMAGES[:12]]
    whole = Preference(relevant_image_ids=[ids[0]], irrelevant_image_ids=[ids[1]], unmarked_image_ids=[ids[2], ids[3]])
    rest = Preference(relevant_image_ids=[ids[0]], unmarked_image_ids=[ids[3]])
    before = await api.search("red", preferences=[rest], excluded_image_ids=ids[1:3])
    everything = await api.search("red", preferences=[whole], excluded_image_ids=ids[1:3])
    assert [hit.score for hit in everything.hits] != [hit.score for hit in before.hits]
    await api.stub.RemoveImages(
        embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=[ids[1], ids[2]])
    )
    after = await api.search("red", preferences=[whole])
    assert [(hit.image_id, hit.score) for hit in after.hits] == [(hit.image_id, hit.score) for hit in before.hits]
    plain = await api.search("red")
    nothing_left = await api.search("red", preferences=[Preference(relevant_image_ids=["nope"])])
    assert [hit.score for hit in nothing_left.hits] == [hit.score for hit in plain.hits]


async def test_revision_in_the_future(api: Api) -> None:
    revision = (await api.add(IMAGES[:3]))[-1].revision
    assert (await api.search("red", min_revision=revision)).revision == revision
    async with refused("REVISION_NOT_REACHED", Unavailable) as seen:
        await api.search("red", min_revision=revision + 1)
    assert seen[0].retry_after_s


async def test_empty_collection(api: Api) -> None:
    response = await api.search("red")
    assert not response.hits and response.revision == 0
    request = embedder_pb2.RankImagesRequest(search=spec_of("red"), image_ids=["x"])
    ranked = await api.stub.RankImages(request)
    assert ranked.candidates == 0 and not ranked.ranks[0].HasField("rank")


async def test_embed_bad_input(api: Api) -> None:
    images = [picture("red"), b"", b"no", picture("blue")]
    response = await api.stub.EmbedImages(embedder_pb2.EmbedImagesRequest(images=images))
    codes = [from_status(e.status).reason if e.status.code else "" for e in response.embeddings]
    assert codes == ["", "EMPTY_FILE", "NOT_AN_IMAGE", ""]
    assert [len(e.vector) for e in response.embeddings] == [4 * response.dimensions, 0, 0, 4 * response.dimensions]
    async with refused("EMPTY_QUERY", InvalidArgument) as seen:
        await api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=["red", "  "]))
    assert seen[0].field == "texts[1]"
    async with refused("TOO_MANY", InvalidArgument):
        await api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=["red"] * 1025))
    async with refused("TOO_MANY", InvalidArgument):
        await api.stub.EmbedImages(embedder_pb2.EmbedImagesRequest(images=[b"x"] * 257))


async def test_texts_are_cached(api: Api, encoder: TinyEncoder) -> None:
    before = encoder.texts_seen
    for _ in range(5):
        await api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=["a new text", "another"]))
    assert encoder.texts_seen == before + 2


async def test_many_texts_and_images_at_once(api: Api) -> None:
    texts = [f"red {n}" for n in range(1024)]
    images = [picture("red", n) for n in range(100)]
    text, *image = await asyncio.gather(
        api.stub.EmbedText(embedder_pb2.EmbedTextRequest(texts=texts)),
        *(api.stub.EmbedImages(embedder_pb2.EmbedImagesRequest(images=images)) for _ in range(3)),
    )
    assert len(text.vectors) == 1024 * 4 * text.dimensions
    assert all(not e.status.code for response in image for e in response.embeddings)


async def test_another_model_does_not_search(folder) -> None:
    settings = settings_for(folder)
    async with running(settings) as api:
        await api.create()
        await api.add(IMAGES[:3])
    async with running(settings, TinyEncoder("tiny@2")) as api:
        listed = await api.stub.ListCollections(embedder_pb2.ListCollectionsRequest())
        assert listed.collections[0].state == embedder_pb2.Collection.STATE_MODEL_MISMATCH
        assert listed.collections[0].model == "tiny@1"
        for call in (api.search("red"), api.add(IMAGES[:3])):
            async with refused("MODEL_MISMATCH", FailedPrecondition) as seen:
                await call
            assert seen[0].metadata == {"collection_model": "tiny@1", "server_model": "tiny@2"}
        assert (await api.content("red-0"))[1] == IMAGES[0][1]
        await api.stub.RemoveImages(
            embedder_pb2.RemoveImagesRequest(collection="collections/photos", image_ids=["red-0"])
        )
    async with running(settings) as api:
        assert sorted(await api.ids("red")) == sorted(IDS[1:3])
    async with running(settings, TinyEncoder("tiny@2")) as api:
        await api.stub.DeleteCollection(embedder_pb2.DeleteCollectionRequest(name="collections/photos"))
        assert not (await api.stub.ListCollections(embedder_pb2.ListCollectionsRequest())).collections
