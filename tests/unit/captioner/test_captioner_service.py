"""The captioner over real gRPC with real decoding: a caption for each item, batches, bad items, queue, cancellation."""

import asyncio
import importlib.util
import re
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from captioner_kit import COLOURS, captioner, collect, error_of, image, item

from services.captioner.models import CaptionText
from services.common.decoding import Resize
from warmer.errors import InvalidArgument, ResourceExhausted, Unavailable, from_status
from warmer.v1 import common_pb2
from warmer.v1.captioner_pb2 import CaptionRequest


class ColourNamer:
    """A small captioning model: it names the colour that most of an image has, and whether it is dark."""

    id = "colour-namer@1"
    backend = "test"
    prompt_version = "plain.v1"
    max_tokens = 5
    resize = Resize("square", 8)

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.stopped = []
        self.closed = False

    def close(self):
        self.closed = True

    def caption(self, pixels, on_text, should_stop=None):
        if all(picture.any() for picture in pixels):  # the warm-up is black
            assert self.gate.wait(20)
            self.batches.append(len(pixels))
        captions = []
        for index, picture in enumerate(pixels):
            assert picture.shape == (8, 8, 3)
            assert picture.dtype == np.uint8
            mean = picture.reshape(-1, 3).astype(float).mean(0)
            if (mean > 240).all():
                raise ValueError("secret: too bright for this model")
            name = min(COLOURS, key=lambda colour: np.abs(mean - COLOURS[colour]).sum())
            for word in ("all", f" {name}"):
                on_text(index, word)
            if should_stop is not None:
                self.stopped.append(should_stop(index))
            if name == "green" and picture[0, 0, 1] == 199:
                captions.append(Unavailable("no more green", reason="NO_GREEN"))
                continue
            captions.append(CaptionText(f"all {name}", 2))
        return captions


@pytest.fixture
def model():
    return ColourNamer()


@pytest.fixture
async def stub(tmp_path, model):
    async with captioner(tmp_path, lambda _settings: model, caption_wait_s=0.3) as running:
        yield running


async def test_each_image_gets_its_caption_in_one_batch(stub, model):
    items = [item("a", image("red")), item("b", image("blue", "JPEG")), item("ü/3", image("green", "WEBP"))]
    deltas, captions = await collect(stub.Caption(CaptionRequest(items=items)))
    assert {key: caption.text for key, caption in captions.items()} == {
        "a": "all red",
        "b": "all blue",
        "ü/3": "all green",
    }
    assert {key: "".join(pieces) for key, pieces in deltas.items()} == {key: c.text for key, c in captions.items()}
    for caption in captions.values():
        assert (caption.model, caption.prompt_version, caption.tokens) == ("colour-namer@1", "plain.v1", 2)
        assert caption.HasField("status")
        assert caption.status.code == 0
    assert model.batches == [3]


async def test_calls_that_come_together_share_a_batch(stub, model):
    calls = [stub.Caption(CaptionRequest(items=[item("k", image(colour))])) for colour in ("red", "blue")]
    answers = await asyncio.gather(*map(collect, calls))
    assert [captions["k"].text for _, captions in answers] == ["all red", "all blue"]
    assert model.batches == [2]


async def test_a_damaged_image_costs_only_itself(stub):
    whole = image("red", "JPEG", (200, 200))
    items = [
        item("good", whole),
        item("cut", whole[: len(whole) // 2]),
        item("text", b"this is no image at all"),
        item("empty", b""),
        item("also-good", image("blue")),
    ]
    _, captions = await collect(stub.Caption(CaptionRequest(items=items)))
    assert len(captions) == 5
    assert captions["good"].text == "all red"
    assert captions["also-good"].text == "all blue"
    reasons = {key: from_status(captions[key].status).reason for key in ("cut", "text", "empty")}
    assert reasons == {"cut": "DAMAGED_IMAGE", "text": "NOT_AN_IMAGE", "empty": "EMPTY_FILE"}
    for key in reasons:
        assert captions[key].text == ""
        assert captions[key].status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert captions[key].model == "colour-namer@1"


async def test_a_model_that_breaks_is_the_status_of_its_batch_and_the_next_one_works(stub):
    _, captions = await collect(stub.Caption(CaptionRequest(items=[item("white", image((255, 255, 255)))])))
    error = from_status(captions["white"].status)
    assert error.reason == "MODEL_FAILED"
    assert "secret" not in str(error)
    _, captions = await collect(stub.Caption(CaptionRequest(items=[item("a", image("red"))])))
    assert captions["a"].text == "all red"


async def test_the_error_of_one_image_is_its_status_alone(stub, model):
    items = [item("a", image("red")), item("g", image((20, 199, 20))), item("b", image("blue"))]
    _, captions = await collect(stub.Caption(CaptionRequest(items=items)))
    assert (captions["a"].text, captions["b"].text) == ("all red", "all blue")
    assert from_status(captions["g"].status).reason == "NO_GREEN"
    assert model.batches == [3]


async def test_a_running_model_is_told_whose_caller_has_gone(tmp_path, model):
    model.gate.clear()
    async with captioner(tmp_path, lambda _settings: model, caption_batch=2, caption_wait_s=0.5) as stub:
        gone = asyncio.create_task(collect(stub.Caption(CaptionRequest(items=[item("k", image("red"))]))))
        stays = asyncio.create_task(collect(stub.Caption(CaptionRequest(items=[item("k", image("blue"))]))))
        await asyncio.sleep(1.0)
        gone.cancel()
        await asyncio.sleep(0.3)
        model.gate.set()
        _, captions = await stays
        assert captions["k"].text == "all blue"
        assert (model.batches, sorted(model.stopped)) == ([2], [False, True])
        assert not model.closed
    assert model.closed


@pytest.mark.parametrize(
    ("keys", "reason", "field"),
    [
        ([], "NO_ITEMS", "items"),
        ([str(i) for i in range(65)], "TOO_MANY", "items"),
        (["a", "b", "a"], "DUPLICATE_KEY", "items[2].key"),
        (["a", ""], "BAD_KEY", "items[1].key"),
        (["ü" * 513], "BAD_KEY", "items[0].key"),
    ],
)
async def test_bad_requests(stub, model, keys, reason, field):
    error = await error_of(stub.Caption(CaptionRequest(items=[item(key, image("red")) for key in keys])))
    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.field) == (reason, field)
    assert error.hint
    assert model.batches == []


async def test_sixty_four_images_are_allowed_and_go_in_batches(tmp_path, model):
    async with captioner(tmp_path, lambda _settings: model, caption_batch=16) as stub:
        items = [item(str(i), image(list(COLOURS)[i % 3])) for i in range(64)]
        _, captions = await collect(stub.Caption(CaptionRequest(items=items)))
        assert [captions[str(i)].text for i in range(6)] == ["all red", "all green", "all blue"] * 2
        assert len(captions) == 64
        assert sum(model.batches) == 64
        assert max(model.batches) <= 16


async def test_a_full_queue_is_the_status_of_the_items_that_found_no_place(tmp_path, model):
    model.gate.clear()
    async with captioner(tmp_path, lambda _settings: model, caption_batch=1, caption_queue=2, caption_wait_s=0) as stub:
        call = stub.Caption(CaptionRequest(items=[item(str(i), image("red")) for i in range(8)]))
        collected = asyncio.create_task(collect(call))
        await asyncio.sleep(1.0)
        model.gate.set()
        _, captions = await collected
        full = [from_status(c.status) for c in captions.values() if c.status.code]
        done = [c for c in captions.values() if c.text == "all red"]
        assert len(full) + len(done) == 8
        assert len(done) == 3  # one running, two waiting
        for error in full:
            assert isinstance(error, ResourceExhausted)
            assert error.reason == "QUEUE_FULL"
            assert error.retry_after_s > 0


async def test_what_a_caller_left_waiting_leaves_the_queue(tmp_path, model):
    model.gate.clear()
    async with captioner(tmp_path, lambda _settings: model, caption_batch=1, caption_wait_s=0) as stub:
        gone = stub.Caption(CaptionRequest(items=[item(str(i), image("red")) for i in range(6)]))
        waiting = asyncio.create_task(collect(gone))
        await asyncio.sleep(1.0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.2)
        model.gate.set()
        _, captions = await collect(stub.Caption(CaptionRequest(items=[item("x", image("blue"))])))
        assert captions["x"].text == "all blue"
        assert model.batches == [1, 1]  # the one that ran already, and the new one


async def test_get_model(stub):
    model = await stub.GetModel(common_pb2.GetModelRequest())
    assert (model.id, model.backend, model.prompt_version) == ("colour-namer@1", "test", "plain.v1")
    assert (model.max_tokens, model.dimensions) == (5, 0)


async def test_the_real_captioner_describes_a_real_photo(tmp_path):
    """The compact model on a photo of an astronaut (a woman), which scikit-image ships."""
    skimage = importlib.util.find_spec("skimage")
    photo = Path(skimage.submodule_search_locations[0]) / "data" / "astronaut.png" if skimage else Path("missing")
    if not photo.is_file():
        pytest.skip("scikit-image, whose photo this test describes, is not installed")
    async with captioner(tmp_path) as stub:
        request = CaptionRequest(items=[item("a", photo.read_bytes()), item("b", b"no image")])
        deltas, captions = await collect(stub.Caption(request))
        caption = captions["a"]
        assert caption.status.code == 0
        assert re.search(r"\b(woman|girl|lady|person|man|boy|child)\b", caption.text)
        assert 3 <= caption.tokens <= 40
        assert "".join(deltas.get("a", [caption.text])) == caption.text
        assert from_status(captions["b"].status).reason == "NOT_AN_IMAGE"
        model = await stub.GetModel(common_pb2.GetModelRequest())
        assert (model.id, model.backend) == (caption.model, "compact")
        assert (model.precision, model.device) == ("fp32", "cpu")
