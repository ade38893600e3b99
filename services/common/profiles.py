"""Profiles name a choice of models in one word, presets a precision; every part of either can be set by itself."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Profile:
    """Backends and prompts that a profile stands for; the settings of the same names override them."""

    embedder_backend: str
    captioner_backend: str
    rewriter_backend: str
    captioner_prompt: str
    rewriter_prompt: str


PROFILES = {
    "compact": Profile("compact", "compact", "compact", "", "compact.v1"),
    "hub": Profile("huggingface", "transformers", "transformers", "sentence.v1", "merge.v1"),
    "paper": Profile("blip", "transformers", "transformers", "reference.v1", "reference.v1"),
    "serve": Profile("huggingface", "openai", "openai", "sentence.v1", "merge.v1"),
}


@dataclass(frozen=True)
class Preset:
    """Precision of captioner and rewriter, and how many square photos then fit into the GPU at once (computed in
    docs/models.md); the settings of the same names override them."""

    precision: Literal["nf4", "int8", "fp16"]
    caption_batch: int


PRESETS = {"int4": Preset("nf4", 8), "int8": Preset("int8", 2), "fp16": Preset("fp16", 16)}
