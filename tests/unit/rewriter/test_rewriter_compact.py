"""The compact profile's SmolLM2: unpacked once from its GGUF file, answered by the same code as the big models."""

import dataclasses
import shutil

import pytest

from services.common.settings import load_settings
from services.common.weights import SMOLLM2
from services.rewriter.models import Request, compact, load_language_model
from services.rewriter.prompts import load_prompt
from warmer.errors import DataLoss, FailedPrecondition


def write(model, chat, most=12):
    pieces = []
    (answer,) = model.generate([Request(chat, pieces.append)], max_new_tokens=most)
    assert "".join(pieces) == answer.text
    return answer


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


def test_smollm2_answers(smollm2):
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    assert "Paris" in write(smollm2, chat, most=10).text
    assert smollm2.encode(chat).count(smollm2._tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert smollm2.id.startswith("SmolLM2-135M-Instruct-Q4_1@")
    assert (smollm2.backend, smollm2.device) == ("compact", "cpu")
    assert smollm2.id.endswith(f"-{smollm2.precision}")


def test_smollm2_writes_in_a_batch_what_it_writes_alone(smollm2):
    """Where all that differs is the order of sums: in bfloat16 that decides now and then between two words."""
    prompt = load_prompt("compact.v1")
    smollm2.warm([prompt.messages("a dog", (), (), "it is black"), prompt.messages("two men", ("a boat",))])
    asked = [
        ("A barechested man surfs on a white surfboard .", "at night"),
        ("A black dog in the water", "it is white, not black"),
        ("Two brown dogs on sand", "with a stick"),
    ]
    chats = [prompt.messages(query, (), (), comment) for query, comment in asked]
    alone = [write(smollm2, chat, most=20) for chat in chats]
    together = smollm2.generate([Request(chat) for chat in chats], max_new_tokens=20)
    assert [answer.text.split()[0] for answer in together] == [answer.text.split()[0] for answer in alone]
    assert "night" in alone[0].text
    if smollm2.precision == "fp32":
        assert together == alone


def test_a_damaged_copy_of_smollm2_is_made_again(smollm2_settings, tmp_path):
    settings = load_settings(models_dir=tmp_path)
    whole = compact.unpack(smollm2_settings.models_dir)
    copy = tmp_path / "rewriter" / whole.name
    shutil.copytree(whole, copy)
    (copy / "model.safetensors").write_bytes(b"\0" * 100)
    model = load_language_model(settings)
    assert write(model, [{"role": "user", "content": "hello you"}], most=2).tokens == 2
    assert (copy / "model.safetensors").stat().st_size > 2e8
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]  # no scratch is left
