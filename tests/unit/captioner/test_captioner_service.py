"""The captioner over real gRPC with real decoding: a caption for each item, batches, bad items, queue, cancellation."""

import asyncio
import importlib.util
import io
import re
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from services.captioner.models import CaptionText
from services.captioner.service import build
from services.common.decoding import Resize
from services.common.server import ServiceHost
from services.common.settings import load_settings
from warmer.errors import InvalidArgument, ResourceExhausted, from_rpc_error, from_status
from warmer.v1 import common_pb2
from warmer.v1.captioner_pb2 import CaptionItem, CaptionRequest
from warmer.v1.captioner_pb2_grpc import CaptionerServiceStub

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


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

    def caption(self, pixels, on_text):
        if all(image.any() for image in pixels):  # the warm-up is black
            assert self.gate.wait(20)
            self.batches.append(len(pixels))
        captions = []
        for index, image in enumerate(pixels):
            assert image.shape == (8, 8, 3)
            assert image.dtype == np.uint8
            mean = image.reshape(-1, 3).astype(float).mean(0)
            if (mean > 240).all():
                raise ValueError("secret: too bright for this model")
            name = min(COLOURS, key=lambda colour: np.abs(mean - COLOURS[colour]).sum())
            for word in ("all", f" {name}"):
                on_text(index, word)
            captions.append(CaptionText(f"all {name}", 2))
        return captions


def image(colour, kind="PNG", size=(20, 10)):
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS.get(colour, colour)).save(out, kind)
    return out.getvalue()


def item(key, data):
    return CaptionItem(key=key, image=data)


@asynccontextmanager
async def captioner(tmp_path, load, **changes):
    settings = load_settings(**{"decode_workers": 1, **changes})
    host = ServiceHost(settings)
    host.add(await build(settings, load) if load else await build(settings))
    target = f"unix:{tmp_path}/c.sock"
    try:
        await host.start(target)
        await host.warm()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield CaptionerServiceStub(channel)
    finally:
        await host.stop(0)


@pytest.fixture
def model():
    return ColourNamer()


@pytest.fixture
async def stub(tmp_path, model):
    async with captioner(tmp_path, lambda _settings: model, caption_wait_s=0.3) as running:
        yield running


async def collect(call):
    """Deltas by key, and captions by key; checks the order within each key."""
    deltas, captions = {}, {}
    async for answer in call:
        if answer.WhichOneof("event") == "text_delta":
            assert answer.text_delta.key not in captions
            deltas.setdefault(answer.text_delta.key, []).append(answer.text_delta.text)
        else:
            assert answer.caption.key not in captions
            captions[answer.caption.key] = answer.caption
    return deltas, captions


async def error_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return from_rpc_error(caught.value)


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
    async with captioner(tmp_path, None) as stub:
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
