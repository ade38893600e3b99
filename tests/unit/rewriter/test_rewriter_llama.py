"""The loading and generating code on a tiny random Llama checkpoint that the test builds, and on the real SmolLM2."""

import dataclasses
import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from services.common.settings import load_settings
from services.common.weights import SMOLLM2
from services.rewriter.models import compact, load_language_model
from services.rewriter.models.llama import LlamaModel, choose_dtype
from warmer.errors import DataLoss, FailedPrecondition

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
HELLO = [{"role": "user", "content": "hello you"}]


def byte_tokenizer():
    """Every byte is a token, so that anything the random model writes can be decoded."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<|user|>", "<|assistant|>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    fast.chat_template = TEMPLATE
    return fast


def save_tiny(folder, dtype=torch.float32):
    torch.manual_seed(7)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(tiny_folder):
    return LlamaModel.load(tiny_folder, dtype="float32")


def write(model, messages=HELLO, most=12, stop=lambda: False):
    pieces = []
    return model.generate(messages, max_new_tokens=most, on_text=pieces.append, should_stop=stop), pieces


def test_the_prompt_is_rendered_and_tokenised_once(tiny):
    tokens = tiny.encode(HELLO)
    assert tokens[:2] == [0, 2]  # one <s>, then <|user|>
    assert tokens.count(0) == 1
    assert tokens[-1] == 3  # <|assistant|>, so that the model answers
    opened = tiny.encode([*HELLO, {"role": "assistant", "content": "well"}])
    assert opened[: len(tokens)] == tokens
    assert 1 not in opened[len(tokens) :]  # the answer is not ended


def test_only_new_text_is_returned_and_the_pieces_add_up(tiny, tiny_folder):
    generation, pieces = write(tiny)
    assert "".join(pieces) == generation.text
    assert 0 < generation.tokens <= 12
    # The same as plain greedy decoding by transformers itself, without our cache and streaming.
    model = LlamaForCausalLM.from_pretrained(tiny_folder)
    ids = torch.tensor([tiny.encode(HELLO)])
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    expected = byte_tokenizer().decode(output[0, ids.shape[1] :], skip_special_tokens=True).lstrip("\r\n")
    assert generation.text == expected.partition("\n")[0]


def test_what_is_kept_from_the_prompt_before_changes_nothing(tiny, tiny_folder):
    chats = [
        [{"role": "user", "content": text}]
        for text in ("hello you there", "hello you", "hello yours", "bye", "hello you there", "hello you there")
    ]
    for chat in chats:
        fresh = LlamaModel.load(tiny_folder, dtype="float32")
        assert write(tiny, chat)[0] == write(fresh, chat)[0]


def test_stopping_ends_the_answer_and_the_next_one_is_whole(tiny, tiny_folder):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) >= 3

    generation, _ = write(tiny, most=40, stop=stop)
    assert generation.tokens == 3
    assert not generation.finished
    assert write(tiny)[0] == write(LlamaModel.load(tiny_folder, dtype="float32"))[0]


def test_an_error_in_the_callback_is_raised_and_the_next_answer_is_whole(tiny, tiny_folder):
    def broken(_text):
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        tiny.generate(HELLO, max_new_tokens=12, on_text=broken, should_stop=lambda: False)
    assert write(tiny)[0] == write(LlamaModel.load(tiny_folder, dtype="float32"))[0]


def test_a_prompt_without_room_for_the_answer_is_refused(tiny):
    with pytest.raises(FailedPrecondition) as error:
        write(tiny, [{"role": "user", "content": "x" * 300}])
    assert error.value.reason == "PROMPT_TOO_LONG"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_as_asked(tiny_folder, dtype):
    model = LlamaModel.load(tiny_folder, dtype=dtype)
    assert model._model.dtype == getattr(torch, dtype)
    assert write(model)[0].tokens > 0
    assert choose_dtype("auto") in (torch.float32, torch.bfloat16)


def test_what_cannot_be_loaded_is_said_clearly(tmp_path, tiny_folder):
    with pytest.raises(FailedPrecondition) as error:
        LlamaModel.load(tmp_path / "nowhere")
    assert error.value.reason == "MODEL_NOT_INSTALLED"
    cut = shutil.copytree(tiny_folder, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(FailedPrecondition) as error:
        LlamaModel.load(cut)
    assert error.value.reason == "MODEL_DAMAGED"
    mute = shutil.copytree(tiny_folder, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((mute / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (mute / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(FailedPrecondition) as error:
        LlamaModel.load(mute)
    assert error.value.reason == "NO_CHAT_TEMPLATE"


def test_a_wrong_weight_file_is_not_unpacked(tmp_path, monkeypatch):
    package = tmp_path / "a_wrong_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('weights are found without an import')")
    (package / SMOLLM2.path).write_bytes(b"GGUF" + bytes(100))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compact, "SMOLLM2", dataclasses.replace(SMOLLM2, module=package.name))
    with pytest.raises(DataLoss) as error:
        compact.unpack(tmp_path / "models")
    assert error.value.reason == "MODEL_DAMAGED"
    assert not (tmp_path / "models").exists()


def test_a_missing_package_is_said_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "SMOLLM2", dataclasses.replace(SMOLLM2, module="no_such_package_at_all"))
    with pytest.raises(FailedPrecondition) as error:
        load_language_model(load_settings(models_dir=tmp_path))
    assert error.value.reason == "MODEL_NOT_INSTALLED"
    assert "warmer models install" in error.value.hint


def test_smollm2_answers(smollm2_settings, smollm2):
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    generation, pieces = write(smollm2, chat, most=10)
    assert "Paris" in generation.text
    assert "".join(pieces) == generation.text
    assert smollm2.encode(chat).count(smollm2._tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert smollm2.id.startswith("SmolLM2-135M-Instruct")
    assert smollm2.backend == "compact"


def test_a_damaged_copy_of_smollm2_is_made_again(smollm2_settings, tmp_path):
    settings = load_settings(models_dir=tmp_path)
    whole = compact.unpack(smollm2_settings.models_dir)
    copy = tmp_path / "rewriter" / whole.name
    shutil.copytree(whole, copy)
    (copy / "model.safetensors").write_bytes(b"\0" * 100)
    model = load_language_model(settings)
    assert write(model, most=2)[0].tokens == 2
    assert (copy / "model.safetensors").stat().st_size > 2e8
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]  # no scratch is left
