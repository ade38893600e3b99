"""BLIP, the embedding model of the reference system: original checkpoints and Hugging Face's, on transformers' BLIP.

Li et al. 2022, https://arxiv.org/abs/2201.12086. Images and texts are embedded apart (ITC); the matching head (ITM)
reads both together and can re-rank. tests/unit/embedder/test_blip_parity.py compares the numbers with the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import BlipConfig, BlipForImageTextRetrieval
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from services.common import checkpoints
from services.common.checkpoints import Checkpoint
from services.common.decoding import Resize
from services.common.settings import Settings
from services.common.threads import limit_torch
from services.common.weights import MINILM_TOKENIZER
from services.embedder.encoders import blip_weights
from services.embedder.encoders.base import TextEmbeddings
from services.embedder.encoders.blip_weights import Heads
from warmer.errors import FailedPrecondition

_VARIABLE = "WARMER_BLIP_WEIGHTS"
_TOKENIZER = "tokenizer.json"
_MAX_TOKENS = 300  # as the reference cuts queries
# OpenAI's CLIP mean and standard deviation of red, green and blue, which BLIP was trained with.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_DEFAULT_HEADS = Heads()


class BlipEncoder:
    """An `Encoder` and a `Matcher` over one BLIP. Thread-safe."""

    backend = "blip"

    def __init__(self, model: Any, tokenizer: Tokenizer, *, id: str, precision: str, enc_token: bool = False) -> None:
        """`model` is a BlipForImageTextRetrieval in eval mode, without `itm_head` if it cannot match.

        `enc_token`: the words that the matching head reads begin with [ENC] instead of [CLS].
        """
        self.id = id
        self.precision = precision
        self.dimensions = int(model.vision_proj.out_features)
        self.max_tokens = min(_MAX_TOKENS, int(model.config.text_config.max_position_embeddings))
        self.resize = Resize("square", int(model.config.vision_config.image_size))
        self.can_rerank = model.itm_head is not None
        self._model = model
        self._dtype = model.vision_proj.weight.dtype
        self._device = model.vision_proj.weight.device
        self._mean = torch.tensor(_MEAN, device=self._device).view(3, 1, 1)
        self._std = torch.tensor(_STD, device=self._device).view(3, 1, 1)
        # The original adds [DEC] and [ENC] to the vocabulary of bert-base-uncased, so [ENC] is the last word.
        self._enc_token = int(model.config.text_config.vocab_size) - 1 if enc_token else None
        self._pad = int(model.config.text_config.pad_token_id or 0)
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()  # counting comes before cutting
        self._tokenizer.no_padding()

    @classmethod
    def load(cls, settings: Settings, *, heads: Heads = _DEFAULT_HEADS) -> BlipEncoder:
        """Loads `settings.blip_weights`. `heads` is for weights whose heads are not 64 wide.

        Raises FailedPrecondition: MODEL_NOT_SET, MODEL_NOT_FOUND, and as `from_checkpoint`.
        """
        path = _weights_of(checkpoints.find_file(settings.blip_weights, settings, _VARIABLE))
        return cls.from_checkpoint(Checkpoint(path.name, str(path), path), settings, heads=heads)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, settings: Settings, *, heads: Heads = _DEFAULT_HEADS
    ) -> BlipEncoder:
        """Loads a file of the original code, or a folder or hub id in Hugging Face's format.

        Raises FailedPrecondition: MODEL_DAMAGED, WRONG_ARCHITECTURE, UNSAFE_CHECKPOINT, MODEL_NOT_INSTALLED (the
        tokenizer), BAD_SETTING (the image size), NO_GPU or OUT_OF_MEMORY.
        """
        limit_torch(settings.threads)
        is_file = checkpoint.path is not None and checkpoint.path.is_file()
        model = _original(checkpoint, settings, heads) if is_file else _hugging_face(checkpoint, settings)
        tokenizer = _tokenizer(checkpoint, model)
        resized = _resize(model, settings.blip_image_size)
        return cls(
            model,
            tokenizer,
            id=f"{checkpoint.id}-{settings.blip_image_size}px" if resized else checkpoint.id,
            precision=checkpoints.resolved(settings.embedder_precision, checkpoints.device_of(settings)),
            enc_token=settings.blip_match_token == "enc",  # noqa: S105 - a token of text
        )

    @property
    def device(self) -> str:
        """Where it computes, e.g. `cpu` or `cuda:0`."""
        return str(self._device)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds N >= 1 texts: (N, D) float32, unit length."""
        ids, mask, counts = self._tokens(texts)
        states = self._model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (N, L, width)
        return TextEmbeddings(_unit(self._model.text_proj(states[:, 0])), counts)

    @torch.inference_mode()
    def embed_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeds N >= 1 images, each (S, S, 3) uint8 RGB: (N, D) float32, unit length."""
        return _unit(self._model.vision_proj(self._patches(pixels)[:, 0]))

    @torch.inference_mode()
    def match(self, text: str, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of "they match" for one text and N >= 1 images: (N,) float32. Only where `can_rerank`."""
        patches = self._patches(pixels)
        ids, mask, _ = self._tokens([text])
        if self._enc_token is not None:
            ids[:, 0] = self._enc_token
        states = self._model.text_encoder(
            input_ids=ids.expand(len(pixels), -1),
            attention_mask=mask.expand(len(pixels), -1),
            encoder_hidden_states=patches,
        ).last_hidden_state
        logits = self._model.itm_head(states[:, 0])  # (N, 2): no match, match
        scores: np.ndarray = logits[:, 1].float().cpu().numpy()
        return scores

    def _patches(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """What the image half makes of images: (N, 1 + patches, width), the class token first."""
        images = torch.from_numpy(np.stack(pixels)).to(self._device)  # (N, S, S, 3)
        scaled = (images.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        states: torch.Tensor = self._model.vision_model(pixel_values=scaled.to(self._dtype)).last_hidden_state
        return states

    def _tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Ids and mask, (N, L) each, and the number of tokens of each text before it was cut."""
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        rows = [self._cut(ids) for ids in tokens]
        length = max(map(len, rows))
        ids = torch.tensor([row + [self._pad] * (length - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self._device)
        return ids, mask, [len(ids) for ids in tokens]

    def _cut(self, ids: list[int]) -> list[int]:
        """At most as many tokens as are read, the closing one kept."""
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]


class _FusedAttention(nn.Module):
    """transformers' attention of the image half, by torch's fused kernel: the same numbers, a tenth faster on a CPU,
    and on a GPU without the (heads, patches, patches) weights in memory."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.qkv = plain.qkv
        self.projection = plain.projection
        self._heads = int(plain.num_heads)

    def forward(self, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor, None]:
        """(N, L, width) -> (N, L, width)."""
        count, length, width = hidden_states.shape
        mixed = self.qkv(hidden_states).view(count, length, 3, self._heads, width // self._heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # (N, heads, L, width / heads) each
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.projection(attended.transpose(1, 2).reshape(count, length, width)), None


def _weights_of(path: Path) -> Path:
    """The checkpoint at a path: a folder in Hugging Face's format, or the weight file, alone in its folder or not."""
    if path.is_file() or (path / "config.json").is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in blip_weights.SUFFIXES)
    if len(files) != 1:
        what = f"{len(files)} files of weights" if files else "neither a config.json nor a file of weights"
        raise FailedPrecondition(
            f"{path} is no checkpoint of BLIP: it has {what} (set by {_VARIABLE})",
            reason="MODEL_NOT_FOUND",
            hint=f"name one {', '.join(blip_weights.SUFFIXES)} file, or a folder with config.json and its weights",
        )
    return files[0]


def _original(checkpoint: Checkpoint, settings: Settings, heads: Heads) -> Any:
    """The model with weights of the original code."""
    device = checkpoints.device_of(settings)
    dtype = checkpoints.dtype_of(settings.embedder_precision, device)
    path = cast(Path, checkpoint.path)
    transformers_logging.disable_progress_bar()  # a service's log is no terminal
    with checkpoints.loading(checkpoint):
        converted = blip_weights.convert(blip_weights.read(path), path, heads)
        # Copied, because the file is mapped: whoever replaces it must not change a model that runs.
        state = {name: value.to(dtype, copy=True) for name, value in converted.state.items()}
        model, report = BlipForImageTextRetrieval.from_pretrained(
            None, config=BlipConfig(**converted.sizes), state_dict=state, dtype=dtype, output_loading_info=True
        )
        if not converted.can_match:
            model.itm_head = None
        missing = {name for name in report["missing_keys"] if model.itm_head is not None or "itm_head" not in name}
        checkpoints.check_keys(checkpoint, {"missing_keys": missing})
        return _ready(model.to(device), settings)


def _hugging_face(checkpoint: Checkpoint, settings: Settings) -> Any:
    """The model of a folder or hub id in Hugging Face's format."""
    with checkpoints.loading(checkpoint):
        kind = BlipConfig.get_config_dict(checkpoint.place)[0].get("model_type")
    if kind != BlipConfig.model_type:
        raise FailedPrecondition(
            f"{checkpoint.place} is a model of the type {kind!r}, not BLIP",
            reason="WRONG_ARCHITECTURE",
            hint="set WARMER_EMBEDDER_BACKEND=huggingface and WARMER_EMBEDDER_MODEL for other models",
        )
    # transformers has no other kernels for BLIP, and raises when they are asked for.
    eager = settings.model_copy(update={"attention": "eager"})
    model = checkpoints.load(BlipForImageTextRetrieval, checkpoint, settings.embedder_precision, eager)
    return _ready(model, settings)


def _tokenizer(checkpoint: Checkpoint, model: Any) -> Tokenizer:
    """The checkpoint's own tokenizer; without one, that of bert-base-uncased, which is BLIP's too."""
    with checkpoints.loading(checkpoint):
        own = None
        if checkpoint.path is None or checkpoint.path.is_dir():
            own = cached_file(checkpoint.place, _TOKENIZER, _raise_exceptions_for_missing_entries=False)
        tokenizer = Tokenizer.from_file(own or str(MINILM_TOKENIZER.verify()))
    words, read = tokenizer.get_vocab_size(), int(model.config.text_config.vocab_size)
    if words > read:
        raise FailedPrecondition(
            f"{checkpoint.place} knows {read:,} tokens, its tokenizer {words:,}",
            reason="WRONG_ARCHITECTURE",
            hint="put the tokenizer.json that belongs to it into its folder",
        )
    return tokenizer


def _resize(model: Any, size: int) -> bool:
    """Makes the model read images of `size` pixels, 0 for those that it was trained on; whether that changed it."""
    embeddings, vision = model.vision_model.embeddings, model.config.vision_config
    if size in (0, vision.image_size):
        return False
    patch = int(embeddings.patch_size)
    if size % patch:
        raise FailedPrecondition(
            f"WARMER_BLIP_IMAGE_SIZE is {size}, which is no multiple of {patch}, the edge of this model's patches",
            reason="BAD_SETTING",
            hint=f"set it to {max(1, round(size / patch)) * patch}, or to 0 for the size that it was trained on",
        )
    positions = blip_weights.resized_positions(embeddings.position_embedding.data, size // patch)
    embeddings.position_embedding = nn.Parameter(positions, requires_grad=False)
    vision.image_size = size
    return True


def _ready(model: Any, settings: Settings) -> Any:
    """The model in eval mode, with the fused attention unless the operator wants none."""
    if settings.attention != "eager":
        for layer in model.vision_model.encoder.layers:
            layer.self_attn = _FusedAttention(layer.self_attn)
    return model.eval().requires_grad_(False)


def _unit(vectors: torch.Tensor) -> np.ndarray:
    """(N, D) of any precision to float32 of unit length."""
    return functional.normalize(vectors.float(), dim=-1).cpu().numpy()
