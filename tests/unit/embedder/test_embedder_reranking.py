"""Re-ranking through the real server with a tiny BLIP, compared with transformers' own forward on the same pictures."""

import asyncio
import io
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
from embedder_kit import Api, picture, refused, running, settings_for
from PIL import Image
from structlog.testing import capture_logs
from tiny import blip
from tiny_encoder import COLOURS, TinyEncoder
from transformers import BertTokenizerFast, BlipImageProcessorPil

from services.common.weights import MINILM_TOKENIZER
from services.embedder.encoders.blip import BlipEncoder
from warmer import aio
from warmer.errors import FailedPrecondition, Internal, InvalidArgument
from warmer.v1 import common_pb2, embedder_pb2

Term = common_pb2.QueryTerm
IMAGES = [(f"{colour}-{n}", picture(colour, n)) for n in range(3) for colour in COLOURS]  # 36: more than a portion
CONTENTS = dict(IMAGES)
TEXT = "a red patch on a blue wall"


class Counting(BlipEncoder):
    """Keeps what it was asked to match."""

    asked: list[tuple[str, int]]
    broken = False

    def match(self, text: str, pixels: Sequence[np.ndarray]) -> np.ndarray:
        self.asked.append((text, len(pixels)))
        if self.broken:
            raise RuntimeError("out of memory, say")
        return super().match(text, pixels)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip.build_original(tmp_path_factory.mktemp("blip") / "tiny.pth")


@pytest.fixture
def blip_encoder(weights: Path, folder: Path) -> Counting:
    settings = settings_for(folder, blip_weights=str(weights), embedder_precision="fp32", device="cpu")
    encoder = Counting.load(settings)
    assert isinstance(encoder, Counting)
    encoder.asked = []
    return encoder


@pytest_asyncio.fixture
async def reranking(folder: Path, blip_encoder: Counting) -> AsyncIterator[Api]:
    async with running(settings_for(folder, rerank_batch=5), blip_encoder) as api:  # type: ignore[arg-type]
        await api.create()
        await api.add(IMAGES)
        yield api


@pytest.fixture(scope="module")
def matches() -> dict[str, float]:
    """The logit of each image with TEXT, from the same weights by other code."""
    tokenizer = BertTokenizerFast(tokenizer_file=str(MINILM_TOKENIZER.find()))
    processor = BlipImageProcessorPil(size={"height": blip.IMAGE_SIZE, "width": blip.IMAGE_SIZE})
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    model = blip.model()
    logits = {}
    for id, content in IMAGES:
        pixels = processor(Image.open(io.BytesIO(content)).convert("RGB"), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            logits[id] = float(model(input_ids=ids, pixel_values=pixels).itm_score[0, 1])
    return logits


def expected_ids(plain: Sequence[common_pb2.Hit], matches: dict[str, float], count: int, top_k: int) -> list[str]:
    first = sorted(plain[:count], key=lambda hit: -(hit.score + matches[hit.image_id]))
    return [hit.image_id for hit in [*first, *plain[count:]]][:top_k]


@pytest.mark.parametrize(("count", "top_k"), [(10, 36), (36, 36), (36, 5), (1000, 8), (34, 3), (1, 4)])
async def test_order_is_score_plus_match(
    reranking: Api, matches: dict[str, float], count: int, top_k: int, blip_encoder: Counting
) -> None:
    plain = (await reranking.search(TEXT, top_k=36)).hits
    assert not any(hit.HasField("match") for hit in plain) and not blip_encoder.asked
    hits = (await reranking.search(TEXT, top_k=top_k, rerank_count=count)).hits
    assert [hit.image_id for hit in hits] == expected_ids(plain, matches, count, top_k)
    before = {hit.image_id: hit for hit in plain}
    for place, hit in enumerate(hits):
        assert hit.HasField("match") == (place < count)
        if place < count:
            assert hit.match == pytest.approx(matches[hit.image_id], abs=1e-4)
        same = before[hit.image_id]
        assert (hit.score, hit.similarity, hit.sha256) == (same.score, same.similarity, same.sha256)
    totals = [hit.score + hit.match for hit in hits[:count]]
    assert totals == sorted(totals, reverse=True)
    if count >= 10:
        assert [hit.image_id for hit in hits] != [hit.image_id for hit in plain[:top_k]], (
            "the tiny head does not matter"
        )
    assert sum(pairs for _, pairs in blip_encoder.asked) == min(count, 36)
    assert max(pairs for _, pairs in blip_encoder.asked) <= 5


async def test_only_hits_are_matched(reranking: Api, matches: dict[str, float]) -> None:
    everything = (await reranking.search(TEXT, top_k=36)).hits
    excluded = [hit.image_id for hit in everything[:6]]
    cutoff = everything[20].similarity
    more = {
        "excluded_image_ids": excluded,
        "min_similarity": cutoff,
        "preferences": [common_pb2.Preference(relevant_image_ids=["red-1"], unmarked_image_ids=["blue-1", "grey-2"])],
    }
    plain = (await reranking.search(TEXT, top_k=36, **more)).hits
    hits = (await reranking.search(TEXT, top_k=36, rerank_count=30, **more)).hits
    assert 0 < len(hits) == len(plain) <= 15
    assert any(hit.score != hit.similarity for hit in hits)
    assert [hit.image_id for hit in hits] == expected_ids(plain, matches, 30, 36)
    assert not (await reranking.search(TEXT, min_similarity=1.01, rerank_count=5)).hits


async def test_words_are_those_of_the_weightiest_text(reranking: Api, blip_encoder: Counting) -> None:
    terms = [
        Term(text="a cat", weight=0.5),
        Term(text="two dogs", weight=2),
        Term(text="a bird", weight=2),
        Term(text="rain", weight=-3),
        Term(image_id="red-1", weight=9),
    ]
    await reranking.search(*terms, rerank_count=3)
    assert blip_encoder.asked == [("two dogs", 3)]
    blip_encoder.asked.clear()
    await asyncio.gather(*(reranking.search(text, rerank_count=4) for text in ("a dog", "a cat", "a dog")))
    asked = {text: sum(pairs for other, pairs in blip_encoder.asked if other == text) for text in ("a dog", "a cat")}
    assert asked == {"a dog": 8, "a cat": 4}


async def test_timings_name_the_stage_where_it_was_asked_for(reranking: Api) -> None:
    stages = [timing.stage for timing in (await reranking.search(TEXT)).timings]
    assert stages == ["embed", "score"]
    stages = [timing.stage for timing in (await reranking.search(TEXT, rerank_count=2)).timings]
    assert stages == ["embed", "score", "rerank"]


async def test_images_that_cannot_be_read_keep_their_place(
    reranking: Api, matches: dict[str, float], folder: Path
) -> None:
    plain = (await reranking.search(TEXT, top_k=36)).hits
    missing, damaged = plain[2], plain[5]
    object_of(folder, missing.sha256).unlink()
    object_of(folder, damaged.sha256).write_bytes(b"something else")
    readable = [hit for hit in plain[:12] if hit not in (missing, damaged)]
    with capture_logs() as logs:
        hits = (await reranking.search(TEXT, top_k=36, rerank_count=12)).hits
    first = sorted(readable, key=lambda hit: -(hit.score + matches[hit.image_id]))
    assert [hit.image_id for hit in hits] == [hit.image_id for hit in [*first, missing, damaged, *plain[12:]]]
    assert [hit.HasField("match") for hit in hits] == [True] * 10 + [False] * 26
    said = [log for log in logs if log["event"].startswith("hit is not re-ranked")]
    assert [log["image_id"] for log in said] == [missing.image_id, damaged.image_id]
    assert {log["reason"] for log in said} == {"CONTENT_DAMAGED"}
    assert TEXT not in str(logs)
    only = (
        await reranking.search(TEXT, top_k=36, excluded_image_ids=[h.image_id for h in readable], rerank_count=2)
    ).hits
    assert [hit.image_id for hit in only[:2]] == [missing.image_id, damaged.image_id]


def object_of(folder: Path, sha256: str) -> Path:
    (path,) = (folder / "data").rglob(f"objects/{sha256[:2]}/{sha256[2:]}")
    return path


async def test_a_stored_image_that_no_decoder_takes_any_more(
    reranking: Api, folder: Path, blip_encoder: Counting
) -> None:
    plain = (await reranking.search(TEXT, top_k=36)).hits
    async with running_again(folder, blip_encoder) as api:
        hits = (await api.search(TEXT, top_k=36, rerank_count=36)).hits
    assert [hit.image_id for hit in hits] == [hit.image_id for hit in plain]
    assert not any(hit.HasField("match") for hit in hits)


def running_again(folder: Path, encoder: Counting) -> AbstractAsyncContextManager[Api]:
    """Another embedder over a copy of the data, which takes no image of more than 1,024 pixels."""
    other = folder / "b"
    shutil.copytree(folder / "data", other / "data")
    return running(settings_for(other, max_image_pixels=1024), encoder)  # type: ignore[arg-type]


async def test_what_cannot_be_re_ranked_is_refused(reranking: Api) -> None:
    async with refused("BAD_RERANK_COUNT", InvalidArgument) as seen:
        await reranking.search(TEXT, rerank_count=1001)
    assert seen[0].field == "search.rerank_count" and "1,000" in seen[0].hint
    for terms in ([Term(image_id="red-1")], [Term(image_id="red-1"), Term(text="a dog", weight=-1)]):
        async with refused("NO_RERANK_TEXT", InvalidArgument) as seen:
            await reranking.search(*terms, rerank_count=1)
        assert seen[0].field == "search.rerank_count" and seen[0].hint


async def test_a_model_without_the_head_is_refused(api: Api) -> None:
    await api.add(IMAGES[:3])
    async with refused("NO_RERANKING", FailedPrecondition) as seen:
        await api.search("red", rerank_count=1)
    assert "tiny@1" in seen[0].message and "can_rerank" in seen[0].hint
    model = await api.stub.GetModel(common_pb2.GetModelRequest())
    assert (model.can_rerank, model.precision, model.device) == (False, "", "")
    assert model.dimensions == TinyEncoder.dimensions


async def test_weights_without_the_head_are_refused(folder: Path) -> None:
    file = blip.build_original(folder / "chatir_weights.ckpt", without="^itm_head")
    encoder = BlipEncoder.load(settings_for(folder, blip_weights=str(file), device="cpu"))
    async with running(settings_for(folder), encoder) as api:  # type: ignore[arg-type]
        await api.create()
        await api.add(IMAGES[:3])
        assert len(await api.ids("red")) == 3
        assert not (await api.stub.GetModel(common_pb2.GetModelRequest())).can_rerank
        async with refused("NO_RERANKING", FailedPrecondition):
            await api.search("red", rerank_count=1)


async def test_get_model_says_what_it_can(reranking: Api, blip_encoder: Counting) -> None:
    model = await reranking.stub.GetModel(common_pb2.GetModelRequest())
    assert (model.id, model.backend, model.dimensions) == (blip_encoder.id, "blip", blip.DIMENSIONS)
    assert (model.max_tokens, model.precision, model.device, model.can_rerank) == (300, "fp32", "cpu", True)


async def test_ranks_are_not_re_ranked(reranking: Api, blip_encoder: Counting) -> None:
    plain = (await reranking.search(TEXT, top_k=36)).hits
    spec = common_pb2.SearchSpec(collection="collections/photos", terms=[Term(text=TEXT)], rerank_count=30)
    ids = [hit.image_id for hit in plain]
    ranked = await reranking.stub.RankImages(embedder_pb2.RankImagesRequest(search=spec, image_ids=ids))
    assert [rank.rank for rank in ranked.ranks] == list(range(1, 37))
    assert not blip_encoder.asked


async def test_a_failing_head_fails_the_search_alone(reranking: Api, blip_encoder: Counting) -> None:
    blip_encoder.broken = True
    async with refused("MODEL_FAILED", Internal):
        await reranking.search(TEXT, rerank_count=36)
    assert len(await reranking.ids(TEXT)) == 10
    blip_encoder.broken = False
    assert (await reranking.search(TEXT, rerank_count=3)).hits[0].HasField("match")


async def test_a_search_that_is_given_up_leaves_the_queue(reranking: Api, blip_encoder: Counting) -> None:
    spec = common_pb2.SearchSpec(collection="collections/photos", terms=[Term(text=TEXT)], rerank_count=36)
    call = reranking.stub.Search(embedder_pb2.SearchRequest(search=spec))
    while not blip_encoder.asked:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.sleep(0.3)
    done = len(blip_encoder.asked)
    await asyncio.sleep(0.2)
    assert len(blip_encoder.asked) == done < 8
    assert (await reranking.search(TEXT, rerank_count=3)).hits


async def test_the_sdk(reranking: Api, folder: Path, matches: dict[str, float]) -> None:
    target = f"unix:{folder}/s"
    async with aio.Client(target, embedder=target) as client:
        assert (await client.model()).can_rerank
        result = await client.search("photos", TEXT, rerank=4, top_k=6)
        assert [hit.match is not None for hit in result.hits] == [True] * 4 + [False] * 2
        assert result.hits[0].match == pytest.approx(matches[result.hits[0].image_id], abs=1e-4)
        with pytest.raises(InvalidArgument) as caught:
            await client.search("photos", image_id="red-1", rerank=4)
        assert caught.value.reason == "NO_RERANK_TEXT"
