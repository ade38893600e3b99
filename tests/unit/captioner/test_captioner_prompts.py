"""Prompt files of the captioner, and what goes wrong with them."""

import pytest

from services.captioner.prompts import DEFAULT, load_prompt, read_prompt
from services.common.profiles import PROFILES
from warmer.errors import FailedPrecondition


@pytest.mark.parametrize("name", ["reference.v1", "sentence.v1"])
def test_a_file_holds_the_prompt_of_its_name(name):
    prompt = load_prompt(name)
    assert prompt.version == name
    assert "sentence" in prompt.text
    assert prompt.text == prompt.text.strip()
    assert "\n" not in prompt.text


def test_an_empty_name_is_the_default():
    assert load_prompt("").version == DEFAULT


def test_the_profiles_prompts_are_there():
    assert all(load_prompt(profile.captioner_prompt) for profile in PROFILES.values())


@pytest.mark.parametrize("name", ["nothing.v1", "../prompts/sentence.v1", "/etc/passwd"])
def test_an_unknown_prompt(name):
    with pytest.raises(FailedPrecondition) as caught:
        load_prompt(name)
    assert caught.value.reason == "PROMPT_NOT_FOUND"
    assert "sentence.v1" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [b"version = ", b'version = "a"', b'text = "b"', b'version = "a"\ntext = 3', b'version = 1\ntext = "b"', b"\xff"],
)
def test_a_bad_prompt(tmp_path, content):
    path = tmp_path / "bad.v1.toml"
    path.write_bytes(content)
    with pytest.raises(FailedPrecondition) as caught:
        read_prompt(path)
    assert caught.value.reason == "BAD_PROMPT"
    assert "bad.v1.toml" in str(caught.value)
