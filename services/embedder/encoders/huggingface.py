"""CLIP, SigLIP and fixed-resolution SigLIP 2 checkpoints through transformers, on CPU or GPU.

CLIP: https://arxiv.org/abs/2103.00020, SigLIP: https://arxiv.org/abs/2303.15343, SigLIP 2: https://arxiv.org/abs/2502.14786.
What they do not share is in `_FAMILIES`; how images are prepared comes from the checkpoint (preprocessing.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from services.common.checkpoints import Checkpoint, load, loading
from services.common.settings import Settings
from services.embedder.encoders.base import TextEmbeddings
from services.embedder.encoders.preprocessing import Preprocessing
from warmer.errors import FailedPrecondition

_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_SUPPORTED = "CLIP (model_type clip), SigLIP and fixed-resolution SigLIP 2 (siglip), BLIP (blip)"


@dataclass(frozen=True)
class _Family:
    """How a family reads text, which decides what its last token has seen.

    A causal text tower (CLIP) never looks at what comes after the closing token: texts are padded to the longest of the
    batch, with a mask. SigLIP was trained on texts padded to full length without a mask, pools the last place, and read
    lower case; its first tokenizer lowers by itself, Gemma's, which SigLIP 2 has, does not.
    """

    fills: bool
    lowers: bool


_FAMILIES = {"clip": _Family(fills=False, lowers=False), "siglip": _Family(fills=True, lowers=True)}


class HuggingFaceEncoder:
    """A CLIP or SigLIP checkpoint; an `Encoder`. Thread-safe in the way that `Encoder` asks for."""

    backend = "huggingface"

    def __init__(
        self, checkpoint: Checkpoint, model: Any, tokenizer: Any, family: _Family, preprocessing: Preprocessing
    ) -> None:
        """Takes what `from_checkpoint` loads: a model and a tokenizer of transformers, and how to use them."""
        self.id = checkpoint.id
        self._model = model
        self._tokenizer = tokenizer
        self._family = family
        self._preprocessing = preprocessing
        self.resize = preprocessing.resize
        self.max_tokens: int = model.config.text_config.max_position_embeddings
        self.dimensions: int = _dimensions(model.config)
        self.device = str(model.device)
        self.precision = _PRECISIONS[model.dtype]

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, settings: Settings) -> HuggingFaceEncoder:
        """Loads a checkpoint in `settings.embedder_precision` on `settings.device`.

        Raises FailedPrecondition: WRONG_ARCHITECTURE, MODEL_DAMAGED, PACKAGE_NOT_INSTALLED, NO_GPU or OUT_OF_MEMORY.
        """
        from transformers import AutoModel

        family = _family_of(checkpoint)
        preprocessing = Preprocessing.of(checkpoint)
        model = load(AutoModel, checkpoint, settings.embedder_precision, settings)
        _check_size(checkpoint, model.config.vision_config.image_size, preprocessing.resize.size)
        tokenizer = _tokenizer(checkpoint, model.config.text_config.vocab_size)
        return cls(checkpoint, model, tokenizer, family, preprocessing)

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds N >= 1 texts: (N, D) float32, unit length."""
        wanted = [text.lower() if self._family.lowers else text for text in texts]
        # Twice, for counting comes before cutting, and only the tokenizer knows which special tokens survive a cut.
        counts = [len(ids) for ids in self._tokenizer(wanted, verbose=False)["input_ids"]]
        tokens = self._tokenizer(
            wanted,
            padding="max_length" if self._family.fills else "longest",
            truncation=True,
            max_length=self.max_tokens,
            padding_side="right",
            return_attention_mask=not self._family.fills,
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(self._model.device)
        with torch.inference_mode():
            return TextEmbeddings(_units(self._model.get_text_features(**tokens)), counts)

    def embed_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds N >= 1 images, each (S, S, 3) uint8 RGB with S = `resize.size`: (N, D) float32, unit length."""
        with torch.inference_mode():
            images = self._preprocessing.tensor(pixels, self._model.device, self._model.dtype)
            return _units(self._model.get_image_features(pixel_values=images))


def model_type(checkpoint: Checkpoint) -> str:
    """The architecture that a checkpoint's configuration names, such as `clip`; empty when it names none."""
    from transformers import PreTrainedConfig

    with loading(checkpoint):
        config, _ = PreTrainedConfig.get_config_dict(**checkpoint.arguments)
        return str(config.get("model_type", ""))


def _family_of(checkpoint: Checkpoint) -> _Family:
    name = model_type(checkpoint)
    if name in _FAMILIES:
        return _FAMILIES[name]
    what = "a SigLIP 2 NaFlex model, whose images have any shape" if name == "siglip2" else f"of type {name!r}"
    raise FailedPrecondition(
        f"{checkpoint.place} is {what}, which the embedder does not support (set by WARMER_EMBEDDER_MODEL)",
        reason="WRONG_ARCHITECTURE",
        hint=f"supported are {_SUPPORTED}",
    )


def _dimensions(config: Any) -> int:
    """Length of the vectors. CLIP projects text and image into one space, SigLIP lets the towers end there."""
    return int(config.projection_dim if config.model_type == "clip" else config.text_config.projection_size)


def _check_size(checkpoint: Checkpoint, reads: int | Sequence[int], gets: int) -> None:
    """Raises FailedPrecondition (WRONG_ARCHITECTURE) when images would not have the size that the model reads."""
    if ({reads} if isinstance(reads, int) else set(reads)) != {gets}:
        raise FailedPrecondition(
            f"{checkpoint.place} reads images of {reads} pixels, but its image processor makes them {gets}",
            reason="WRONG_ARCHITECTURE",
            hint="config.json and preprocessor_config.json must come from one model",
        )


def _tokenizer(checkpoint: Checkpoint, vocabulary: int) -> Any:
    """The checkpoint's tokenizer.

    Its size is compared with the model's `vocabulary`, because transformers makes an empty one when files are missing.
    Raises FailedPrecondition: MODEL_DAMAGED or PACKAGE_NOT_INSTALLED.
    """
    from transformers import AutoTokenizer

    with loading(checkpoint):
        try:
            tokenizer = AutoTokenizer.from_pretrained(**checkpoint.arguments)
        except ImportError as error:  # SigLIP's first tokenizer is SentencePiece's
            raise FailedPrecondition(
                f"the tokenizer of {checkpoint.place} needs a package that is not installed: {_first_line(error)}",
                reason="PACKAGE_NOT_INSTALLED",
                hint="pip install sentencepiece",
            ) from error
        except (OSError, ValueError) as error:
            raise _no_tokenizer(checkpoint, f"that cannot be loaded: {_first_line(error)}") from error
    if not vocabulary // 2 < len(tokenizer) <= vocabulary:
        raise _no_tokenizer(checkpoint, f"of {len(tokenizer):,} tokens for a model of {vocabulary:,}")
    return tokenizer


def _no_tokenizer(checkpoint: Checkpoint, problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{checkpoint.place} has a tokenizer {problem}",
        reason="MODEL_DAMAGED",
        hint="its tokenizer files (tokenizer.json, vocab.json, spiece.model, ...) are missing or of another model",
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _units(features: Any) -> np.ndarray:
    """Unit vectors (N, D) float32 of what a tower gives: `pooler_output` is (N, D), projected where the family does."""
    pooled: Tensor = features.pooler_output
    vectors: np.ndarray = F.normalize(pooled.float(), dim=-1).cpu().numpy()
    return vectors
