"""Random LLaVA-NeXT and LLaVA-1.5 checkpoints, in the files and with the parts of the real ones.

As `llava-v1.6-mistral-7b-hf`: a CLIP vision tower, a Mistral language model, a tokenizer of the Llama kind (byte
fallback, `<s>` added in front, `<image>` and `<pad>` added behind) and tiles of several resolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    MistralConfig,
)

from .words import SENTENCES, learn

# The image first, then the words; `<s>` is left to the tokenizer.
NEXT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' [/INST]' }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
# Writes `<s>` itself.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ bos_token + message['role'].upper() + ': ' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


@dataclass(frozen=True)
class Size:
    """Measures of a LLaVA: widths and layers of the two towers, pixels of a tile and a patch.

    `range` is how widely the language model's weights are drawn. For tests widely, so that the image decides the words
    and no two of them are nearly as likely.
    """

    text: int
    vision: int
    text_layers: int
    vision_layers: int
    heads: int
    tile: int
    patch: int
    range: float


TINY = Size(text=64, vision=64, text_layers=2, vision_layers=3, heads=4, tile=28, patch=14, range=0.3)
MIDDLE = Size(text=512, vision=256, text_layers=6, vision_layers=4, heads=8, tile=336, patch=14, range=0.05)


def build(folder: Path, *, size: Size = TINY, chat_template: str | None = NEXT_TEMPLATE) -> Path:
    """Writes a LLaVA-NeXT checkpoint into `folder` and returns it. `chat_template` None writes none."""
    torch.manual_seed(0)
    words = tokenizer()
    low, high = size.tile, 2 * size.tile
    tiles = [[low, high], [high, low], [high, high], [low + high, low], [low, low + high]]
    model = LlavaNextForConditionalGeneration(LlavaNextConfig(**_parts(words, size), image_grid_pinpoints=tiles))
    images = LlavaNextImageProcessorPil(**_edges(size), image_grid_pinpoints=tiles)
    return _save(folder, model, LlavaNextProcessor(images, words, chat_template=chat_template, **_tokens(size)), words)


def build_llava(folder: Path, *, chat_template: str | None = LLAVA_TEMPLATE) -> Path:
    """Writes a LLaVA-1.5 checkpoint into `folder` and returns it: the same parts, but one tile to an image."""
    torch.manual_seed(0)
    words = tokenizer()
    model = LlavaForConditionalGeneration(LlavaConfig(**_parts(words, TINY)))
    images = CLIPImageProcessorPil(**_edges(TINY))
    return _save(folder, model, LlavaProcessor(images, words, chat_template=chat_template, **_tokens(TINY)), words)


def tokenizer() -> LlamaTokenizer:
    """A tokenizer of the Llama kind with a few hundred pieces; `<s>` comes first unless one asks for none."""
    trainer = BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *_BYTES],
        initial_alphabet=list("INSTUERA[]/:.,\n"),
        show_progress=False,
    )
    like = LlamaTokenizer().backend_tokenizer
    vocabulary, merges = learn(BPE(byte_fallback=True), like, trainer, [f"{text}." for text in SENTENCES])
    made = LlamaTokenizer(
        vocab=vocabulary, merges=merges, add_bos_token=True, padding_side="left", model_max_length=4096
    )
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    made.add_special_tokens({"pad_token": "<pad>"})
    return made


def generation_config(words: LlamaTokenizer) -> GenerationConfig:
    """Random weights shall write words on one line, no bytes or marks, and at least one word."""
    silent = ["<unk>", "<s>", "<image>", "<pad>", "\n", *_BYTES]
    return GenerationConfig(
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        suppress_tokens=[words.convert_tokens_to_ids(mark) for mark in silent],
        begin_suppress_tokens=[words.eos_token_id],
    )


def _parts(words: LlamaTokenizer, size: Size) -> dict[str, Any]:
    """Configuration of the two towers and how they are joined."""
    vision = CLIPVisionConfig(
        hidden_size=size.vision,
        intermediate_size=2 * size.vision,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.heads,
        image_size=size.tile,
        patch_size=size.patch,
    )
    text = MistralConfig(
        vocab_size=len(words),
        hidden_size=size.text,
        intermediate_size=2 * size.text,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        max_position_embeddings=4096,
        sliding_window=None,
        initializer_range=size.range,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": words.convert_tokens_to_ids("<image>"),
        "image_seq_length": (size.tile // size.patch) ** 2,
    }


def _edges(size: Size) -> dict[str, Any]:
    return {"size": {"shortest_edge": size.tile}, "crop_size": {"height": size.tile, "width": size.tile}}


def _tokens(size: Size) -> dict[str, Any]:
    """What the processor must know to count the tokens of an image: CLIP's class token is left out by `default`."""
    return {
        "patch_size": size.patch,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }


def _save(folder: Path, model: Any, processor: Any, words: LlamaTokenizer) -> Path:
    model.generation_config = generation_config(words)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
