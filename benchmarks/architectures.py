"""The big models' architectures at their real sizes, without weights: on torch's fake tensors they cost no memory.

The numbers are those of the published config.json files: BLIP of Salesforce/blip-itm-base-coco, LLaVA-NeXT of
llava-hf/llava-v1.6-mistral-7b-hf, Llama of meta-llama/Llama-3.1-8B-Instruct.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_LAYER = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))  # height, width, in pixels
_TILE, _PATCH = 336, 14


@dataclass(frozen=True)
class Architecture:
    """A model. `stored` is bytes of a parameter in its published file; `build` takes a number format."""

    name: str
    stored: int
    build: Callable[[torch.dtype], nn.Module]


def llava(dtype: torch.dtype, layers: int = _LAYER["num_hidden_layers"]) -> nn.Module:
    """LLaVA-NeXT with Mistral 7B and CLIP ViT-L/14 at 336 px."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": _TILE,
        "patch_size": _PATCH,
        "projection_dim": 768,
    }
    text = _LAYER | {"model_type": "mistral", "vocab_size": 32064, "num_hidden_layers": layers}
    config = LlavaNextConfig(vision_config=vision, text_config=text, image_grid_pinpoints=[list(p) for p in PINPOINTS])
    return _of(LlavaNextForConditionalGeneration, config, dtype)


def llama(dtype: torch.dtype, layers: int = _LAYER["num_hidden_layers"]) -> nn.Module:
    """Llama 3.1 8B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = _LAYER | {"num_hidden_layers": layers}
    return _of(LlamaForCausalLM, LlamaConfig(vocab_size=128256, tie_word_embeddings=False, **sizes), dtype)


def blip(dtype: torch.dtype) -> nn.Module:
    """BLIP for retrieval: ViT-B/16 at 384 px, BERT with cross-attention, two projections, the matching head."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    vision = {"image_size": 384, "patch_size": 16}
    config = BlipConfig(vision_config=vision, text_config={"encoder_hidden_size": 768}, image_text_hidden_size=256)
    return _of(BlipForImageTextRetrieval, config, dtype, attention="eager")  # transformers has no other for it


def _of(kind: Any, config: Any, dtype: torch.dtype, attention: str = "sdpa") -> nn.Module:
    from transformers.initialization import no_init_weights

    with no_init_weights():  # random numbers cannot be drawn for tensors without memory
        model: nn.Module = kind._from_config(config, dtype=dtype, attn_implementation=attention)
    return model.eval()


BLIP = Architecture("BLIP ViT-B, retrieval", 4, blip)
LLAVA = Architecture("LLaVA-NeXT, Mistral 7B", 2, llava)
LLAMA = Architecture("Llama 3.1 8B Instruct", 2, llama)


def image_tokens(height: int, width: int) -> int:
    """Tokens that LLaVA-NeXT makes of an image: 576 of the whole, and of its tiles what is no padding.

    The tiling keeps the most of the image's pixels and then wastes the least; a line of tokens ends with one more
    (https://llava-vl.github.io/blog/2024-01-30-llava-next/).
    """
    best_height, best_width = max(PINPOINTS, key=lambda tiling: _kept(height, width, *tiling))
    rows, columns = best_height // _PATCH, best_width // _PATCH
    if width / height > columns / rows:
        rows -= (rows - int(round(height * columns / width, 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * rows / height, 7))) // 2 * 2
    return (_TILE // _PATCH) ** 2 + rows * columns + rows


def tiles(height: int, width: int) -> int:
    """Tiles of 336 px that the vision tower sees of an image, the whole of it in small included."""
    best_height, best_width = max(PINPOINTS, key=lambda tiling: _kept(height, width, *tiling))
    return 1 + best_height * best_width // _TILE**2


def _kept(height: int, width: int, tiling_height: int, tiling_width: int) -> tuple[int, int]:
    """Pixels of the image that a tiling keeps, and the negative of what it wastes."""
    scale = min(tiling_width / width, tiling_height / height)
    kept = min(int(width * scale) * int(height * scale), width * height)
    return kept, kept - tiling_width * tiling_height
