"""A tiny random BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086) in both of its file formats.

`build` writes a folder as Hugging Face has it, `build_original` a `.pth` as the original code and its descendants write
it. Both hold the same numbers, so that what is loaded from one must agree with what is loaded from the other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizerFast, BlipConfig, BlipForImageTextRetrieval, BlipImageProcessorPil, BlipProcessor
from transformers.utils import logging as transformers_logging

from services.common.weights import MINILM_TOKENIZER

IMAGE_SIZE = 64
PATCH_SIZE = 16
DIMENSIONS = 32
_VOCABULARY = 30_524  # bert-base-uncased, [DEC] and [ENC]
# transformers' names, and the original's.
_NAMES = (
    (r"vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"vision_model\.post_layernorm", "visual_encoder.norm"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv", r"visual_encoder.blocks.\1.attn.qkv"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp", r"visual_encoder.blocks.\1.mlp"),
)


def model() -> Any:
    """The model itself: an image half of two heads, a text half of one, 64 numbers each, as the real ones have."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "layer_norm_eps": 1e-6,
    }
    text = {
        "hidden_size": 64,
        "encoder_hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "vocab_size": _VOCABULARY,
    }
    config = BlipConfig(vision_config=vision, text_config=text, image_text_hidden_size=DIMENSIONS)
    made = BlipForImageTextRetrieval(config).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            # transformers begins so near to zero that all images would look alike.
            spread = 0.3 if "position" in name or "class_embedding" in name else 0.12 if weight.ndim > 1 else 0.02
            weight.add_(torch.randn_like(weight) * spread)
    return made


def build(folder: Path) -> Path:
    """Writes the folder that `save_pretrained` makes, with processor and tokenizer."""
    transformers_logging.disable_progress_bar()
    model().save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    tokenizer = BertTokenizerFast(tokenizer_file=str(MINILM_TOKENIZER.find()), model_max_length=512)
    BlipProcessor(BlipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)
    return folder


def original_state() -> dict[str, torch.Tensor]:
    """The weights under the original's names, as its `state_dict()` gives them."""
    state = {_original(name): value.clone() for name, value in model().state_dict().items()}
    state["text_encoder.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
    return state


def build_original(
    file: Path,
    *,
    container: str | None = "model",
    prefix: str = "",
    momentum: bool = False,
    without: str = "$nothing",
    more: dict[str, Any] | None = None,
) -> Path:
    """Writes a file of the original's kind.

    `container`: the key that holds the weights, None for the weights alone; `prefix` goes before each name, as
    Lightning does it; `momentum` adds what only training reads; `without` is a pattern of names to leave out; `more`
    goes beside.
    """
    state = {prefix + name: value for name, value in original_state().items() if not re.search(without, name)}
    if momentum:
        state |= {name.replace(".", "_m.", 1): value + 1 for name, value in state.items()}
        state |= {"image_queue": torch.zeros(DIMENSIONS, 8), "queue_ptr": torch.zeros(1), "temp": torch.tensor(0.07)}
        state |= {"text_decoder.cls.predictions.bias": torch.zeros(_VOCABULARY)}
    torch.save({container: state, **(more or {})} if container else state, file)
    return file


def _original(name: str) -> str:
    for pattern, original in _NAMES:
        name = re.sub(pattern, original, name)
    return name
