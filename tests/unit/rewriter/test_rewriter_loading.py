"""Loading chat models through the settings: precisions, GGUF files, and what cannot be loaded."""

import json
import shutil

import pytest
import torch
from chat_kit import TEXTS, ask, chat, load
from tiny import clip, llama

from services.common.checkpoints import computes_bf16
from warmer.errors import FailedPrecondition


def refusal(place, precision="fp32", **changes):
    with pytest.raises(FailedPrecondition) as error:
        load(place, precision, **changes)
    assert error.value.hint
    return error.value


def logits(model, text):
    """Of the next word, (V,)."""
    with torch.inference_mode():
        return model._model(torch.tensor([model.encode(chat(text))])).logits[0, -1]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "nf4"])
def test_each_precision_loads_and_writes(llama_folder, precision):
    if precision in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")
    model = load(llama_folder, precision)
    kinds = {type(module).__name__ for module in model._model.modules()}
    assert ("Linear8bitLt" in kinds, "Linear4bit" in kinds) == (precision == "int8", precision == "nf4")
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision in dtypes:
        assert {value.dtype for value in model._model.parameters()} == {dtypes[precision]}
    model.warm([chat("a dog"), chat("two men")])
    answers = ask(model, *TEXTS)
    assert all(answer.tokens > 0 and answer.text for answer in answers)
    assert (model.precision, model.device, model.backend) == (precision, "cpu", "transformers")
    assert model.id.startswith("Llama-tiny-Instruct@")
    assert model.id.endswith(f"-{precision}")


def test_auto_is_what_the_device_computes_in_and_a_preset_is_a_precision(llama_folder):
    assert load(llama_folder, "auto").precision == ("bf16" if computes_bf16() else "fp32")
    assert load(llama_folder, "auto", preset="fp16").precision == "fp16"


def test_quantised_weights_say_about_the_same(llama_folder):
    pytest.importorskip("bitsandbytes")
    whole = logits(load(llama_folder), TEXTS[0])
    for precision, least in (("bf16", 0.999), ("int8", 0.98), ("nf4", 0.8)):
        rough = logits(load(llama_folder, precision), TEXTS[0]).float()
        assert torch.cosine_similarity(whole, rough, dim=0) > least, precision


def test_a_gguf_file_is_the_same_model(tmp_path, llama_folder):
    file = llama.build_gguf(tmp_path / "Llama-tiny-F32.gguf")
    folder, packed = load(llama_folder), load(file)
    assert packed.id.startswith("Llama-tiny-F32.gguf@")
    for text in TEXTS:
        assert packed.encode(chat(text)) == folder.encode(chat(text))
        # Its rotary positions too, whose scaling transformers does not read.
        torch.testing.assert_close(logits(packed, text), logits(folder, text), atol=1e-4, rtol=0)
    # The file names another end than the one that ends a turn; the template knows better.
    assert packed._tokenizer.convert_tokens_to_ids(llama.TURN) in packed._ends
    assert ask(packed, *TEXTS)[0].tokens > 0
    assert load(tmp_path, "bf16").id.startswith(tmp_path.name)  # the folder of a single GGUF file
    error = refusal(file, "int8")
    assert error.reason == "NO_QUANTISATION"
    assert file.name in error.message


def test_no_model_is_named_or_it_is_nowhere(tmp_path):
    assert refusal("").reason == "MODEL_NOT_SET"
    error = refusal(tmp_path / "nowhere")
    assert error.reason == "MODEL_NOT_FOUND"
    assert "WARMER_REWRITER_MODEL" in error.message
    assert refusal(tmp_path).reason == "MODEL_NOT_FOUND"  # a folder without a checkpoint


@pytest.mark.parametrize("size", [0, 100, 50_000])
def test_a_truncated_weight_file_is_said_so(tmp_path, llama_folder, size):
    cut = shutil.copytree(llama_folder, tmp_path / "cut")
    weights = sorted(cut.glob("*.safetensors"))[-1]
    weights.write_bytes(weights.read_bytes()[:size])
    error = refusal(cut)
    assert error.reason == "MODEL_DAMAGED"
    assert str(cut) in error.message


def test_a_missing_weight_file_is_said_so(tmp_path, llama_folder):
    cut = shutil.copytree(llama_folder, tmp_path / "cut")
    sorted(cut.glob("*.safetensors"))[0].unlink()
    assert refusal(cut).reason == "MODEL_DAMAGED"


def test_weights_of_another_model_are_not_taken(tmp_path, llama_folder):
    other = shutil.copytree(llama_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    error = refusal(other)
    assert error.reason == "WRONG_ARCHITECTURE"
    assert "model.layers.2" in error.message


def test_a_model_of_images_is_no_chat_model(tmp_path):
    error = refusal(clip.build(tmp_path))
    assert error.reason == "WRONG_ARCHITECTURE"
    assert "clip" in error.message


def test_a_damaged_configuration_or_tokenizer_is_said_so(tmp_path, llama_folder):
    for name in ("config.json", "tokenizer.json"):
        broken = shutil.copytree(llama_folder, tmp_path / name)
        (broken / name).write_text("{")
        assert refusal(broken).reason == "MODEL_DAMAGED"


@pytest.mark.parametrize("template", [None, "{{ raise_exception('not this way') }}", "{% for %}"])
def test_a_model_without_a_chat_template_is_refused(tmp_path, template):
    error = refusal(llama.build(tmp_path, chat_template=template))
    assert error.reason == "NO_CHAT_TEMPLATE"
    assert "instruct" in error.hint
