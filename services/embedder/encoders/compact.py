"""The compact embedder at run time: two ONNX graphs and a tokenizer, on the CPU, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from services.common.decoding import Resize
from services.common.settings import Settings
from services.common.vision import onnx_build
from services.common.vision.backbone import RESIZE
from services.common.weights import (
    EFFICIENTNET_LITE0,
    EFFICIENTNET_LITE2,
    MINILM_TOKENIZER,
    MINILM_WEIGHTS,
    compact_file,
    sha256_of,
)
from services.embedder.choice import ChoiceSimilarity
from services.embedder.encoders.base import TextEmbeddings

if TYPE_CHECKING:
    from torch import nn

_DIMENSIONS = 256
# MiniLM was trained on texts of up to 256 tokens.
_MAX_TOKENS = 256
# Raise when the towers change without the heads.
_GRAPH_VERSION = "1"


class CompactEncoder:
    """EfficientNet-Lite and MiniLM with trained heads; an `Encoder`. Thread-safe."""

    def __init__(self, heads: Path, models_dir: Path, threads: int) -> None:
        """Builds the ONNX files if this is the first time, which takes about half a minute, and opens them.

        Raises FailedPrecondition (MODEL_NOT_INSTALLED) or DataLoss (MODEL_DAMAGED).
        """
        weights = (EFFICIENTNET_LITE0, EFFICIENTNET_LITE2, MINILM_WEIGHTS, MINILM_TOKENIZER)
        for weight in weights:
            weight.find()
        key = sha256_of(heads)[:12] + _GRAPH_VERSION
        self.id = f"compact-{key}"
        image = onnx_build.built(models_dir, "compact-image", key, lambda: _image_tower(heads))
        text = onnx_build.built(models_dir, "compact-text", key, lambda: _text_tower(heads))
        self._image = onnx_build.open_session(image, threads)
        self._text = onnx_build.open_session(text, threads)
        similarity = heads.with_name("choice.safetensors")
        self.choice = ChoiceSimilarity.load(similarity, heads) if similarity.is_file() else None
        self._tokenizer = Tokenizer.from_file(str(MINILM_TOKENIZER.verify()))
        # Counting comes before cutting: the caller wants to know how much was not read.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def load(cls, settings: Settings) -> CompactEncoder:
        """The encoder with the heads that ship with Warmer. Raises as the constructor."""
        return cls(compact_file("embedder/heads.safetensors"), settings.models_dir, settings.threads)

    @property
    def backend(self) -> str:
        """The profile that this encoder belongs to."""
        return "compact"

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return _DIMENSIONS

    @property
    def max_tokens(self) -> int:
        """Longest text that is read."""
        return _MAX_TOKENS

    @property
    def resize(self) -> Resize:
        """How images are resized before they are handed over."""
        return RESIZE

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds N >= 1 texts: (N, 256) float32, unit length."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(texts), _DIMENSIONS), np.float32)
        # Texts of one length run together: padding costs time, and the same text gives the same bits in any company.
        for length in {min(len(ids), _MAX_TOKENS) for ids in tokens}:
            rows = [i for i, ids in enumerate(tokens) if min(len(ids), _MAX_TOKENS) == length]
            ids = np.array([_cut(tokens[i]) for i in rows], np.int64)
            vectors[rows] = self._text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        return TextEmbeddings(vectors, [len(ids) for ids in tokens])

    def embed_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds N >= 1 images, each (224, 224, 3) uint8 RGB: (N, 256) float32, unit length."""
        return onnx_build.run_images(self._image, pixels)


def _cut(ids: list[int]) -> list[int]:
    """At most 256 tokens, the closing one kept."""
    return ids if len(ids) <= _MAX_TOKENS else [*ids[: _MAX_TOKENS - 1], ids[-1]]


def _image_tower(heads: Path) -> tuple[nn.Module, onnx_build.Example, list[str]]:
    import torch

    from services.embedder.encoders.compact_towers import ImageTower, load_heads

    example = {"pixels": torch.zeros(2, RESIZE.size, RESIZE.size, 3, dtype=torch.uint8)}
    return ImageTower(load_heads(heads)[0]), example, ["vector"]


def _text_tower(heads: Path) -> tuple[nn.Module, onnx_build.Example, list[str]]:
    import torch

    from services.embedder.encoders.compact_towers import TextTower, load_heads

    ids = torch.ones(2, 8, dtype=torch.int64)
    return TextTower(load_heads(heads)[1]), {"input_ids": ids, "attention_mask": ids.clone()}, ["vector"]
