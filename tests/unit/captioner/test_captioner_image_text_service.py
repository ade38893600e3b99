"""LLaVA-NeXT behind the captioner's own gRPC service: the real files, decoder, batches, streams and refusals."""

import asyncio
import io
import json
import shutil
import time

import grpc
import numpy as np
import pytest
import structlog
from captioner_kit import captioner, collect, error_of, item
from PIL import Image
from tiny import clip, idefics3, llava_next

from warmer.errors import FailedPrecondition, from_rpc_error, from_status
from warmer.v1 import common_pb2
from warmer.v1.captioner_pb2 import CaptionRequest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llava_next.build(tmp_path_factory.mktemp("llava") / "llava-next")


def serving(tmp_path, folder, **changes):
    chosen = {
        "captioner_backend": "transformers",
        "captioner_model": str(folder),
        "captioner_precision": "fp32",
        "captioner_max_new_tokens": 8,
        "threads": 1,
    }
    return captioner(tmp_path, **chosen | changes)


def photo(seed, size=(60, 40)):
    """An image file with something on it."""
    out = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
async def test_captions_in_each_precision(tmp_path, folder, precision):
    async with serving(tmp_path, folder, captioner_precision=precision) as stub:
        model = await stub.GetModel(common_pb2.GetModelRequest())
        assert (model.backend, model.prompt_version, model.max_tokens) == ("transformers", "sentence.v1", 8)
        assert (model.precision, model.device) == (precision, "cpu")
        assert f"-{precision}" in model.id
        items = [item("a", photo(1)), item("broken", photo(2)[:200]), item("b", photo(3, (40, 90)))]
        deltas, captions = await collect(stub.Caption(CaptionRequest(items=items)))
        assert from_status(captions["broken"].status).reason == "DAMAGED_IMAGE"
        for key in "ab":
            caption = captions[key]
            assert caption.status.code == 0
            assert caption.text
            assert "".join(deltas[key]).startswith(caption.text)
            assert (caption.model, caption.prompt_version) == (model.id, "sentence.v1")
            assert 1 <= caption.tokens <= 8


@pytest.mark.parametrize("build", [llava_next.build_llava, idefics3.build])
async def test_another_architecture(tmp_path, build):
    async with serving(tmp_path, build(tmp_path / "model")) as stub:
        _, captions = await collect(stub.Caption(CaptionRequest(items=[item("a", photo(1)), item("b", photo(2))])))
        assert all(caption.text for caption in captions.values())


async def test_calls_share_batches_and_captions_do_not_depend_on_it(tmp_path, folder):
    photos = {str(seed): photo(seed, (20 + 9 * seed, 50)) for seed in range(6)}
    async with serving(tmp_path, folder, caption_wait_s=0.2) as stub:
        alone = {}
        for key, data in photos.items():
            alone |= (await collect(stub.Caption(CaptionRequest(items=[item(key, data)]))))[1]
        calls = [stub.Caption(CaptionRequest(items=[item(key, data)])) for key, data in photos.items()]
        together = [captions for _, captions in await asyncio.gather(*map(collect, calls))]
        assert {key: c.text for captions in together for key, c in captions.items()} == {
            key: c.text for key, c in alone.items()
        }


async def test_a_batch_stops_when_its_callers_have_gone(tmp_path, folder):
    """Who comes next does not wait for the captions of callers that went away."""
    endless = shutil.copytree(folder, tmp_path / "endless")
    config = json.loads((endless / "generation_config.json").read_text())
    config["suppress_tokens"].append(config["eos_token_id"])
    (endless / "generation_config.json").write_text(json.dumps(config))
    async with serving(tmp_path, endless, captioner_max_new_tokens=400, caption_batch=2) as stub:
        request = CaptionRequest(items=[item(str(seed), photo(seed)) for seed in range(2)])
        begin = time.monotonic()
        _, captions = await collect(stub.Caption(request))
        whole = time.monotonic() - begin
        assert {caption.tokens for caption in captions.values()} == {400}
        call = stub.Caption(request)
        await call.read()  # it writes
        call.cancel()
        begin = time.monotonic()
        other = stub.Caption(CaptionRequest(items=[item("next", photo(5))]))
        await other.read()
        assert time.monotonic() - begin < whole / 2
        other.cancel()


def broken_weights(folder, tmp_path):
    made = shutil.copytree(folder, tmp_path / "broken")
    (made / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100_000])
    return made


def unfit_processor(folder, tmp_path):
    """Every file is whole, but the processor counts the tokens of patches that the model does not have."""
    made = shutil.copytree(folder, tmp_path / "unfit")
    path = made / "processor_config.json"
    path.write_text(path.read_text().replace('"patch_size": 14', '"patch_size": 7'))
    return made


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda _folder, tmp_path: tmp_path / "nowhere", "MODEL_NOT_FOUND"),
        (lambda _folder, tmp_path: clip.build(tmp_path / "clip"), "WRONG_ARCHITECTURE"),
        (broken_weights, "MODEL_DAMAGED"),
        (lambda _folder, tmp_path: llava_next.build(tmp_path / "mute", chat_template=None), "NO_CHAT_TEMPLATE"),
        (unfit_processor, "MODEL_FAILED"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_what_every_call_is_told(tmp_path, folder, prepare, reason):
    with structlog.testing.capture_logs() as logs:
        async with serving(tmp_path, prepare(folder, tmp_path), patient=True) as stub:
            error = await error_of(stub.Caption(CaptionRequest(items=[item("a", photo(1))])))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetModel(common_pb2.GetModelRequest())
    assert error.reason == from_rpc_error(caught.value).reason == reason
    assert reason == "MODEL_FAILED" or (isinstance(error, FailedPrecondition) and error.hint)
    (line,) = [log for log in logs if log["event"].startswith("not serving")]
    assert (line["reason"], line["log_level"]) == (reason, "error")
