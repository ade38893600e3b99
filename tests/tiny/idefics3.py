"""A tiny random Idefics3 checkpoint: an image-text-to-text model that shares no code with LLaVA.

Its tower is of SigLIP's kind, its tiles are announced by rows and columns in the text, its language model is a Llama.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
)

from .llava_next import generation_config, tokenizer

TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TILE, PATCH, SCALE = 56, 14, 2


def build(folder: Path) -> Path:
    """Saves the checkpoint in `folder`, which is made where it is missing; deterministic, under a second."""
    torch.manual_seed(0)
    words = tokenizer()
    words.add_tokens(["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))])
    images = Idefics3ImageProcessorPil(size={"longest_edge": 2 * TILE}, max_image_size={"longest_edge": TILE})
    tokens = (TILE // PATCH // SCALE) ** 2
    processor = Idefics3Processor(images, words, image_seq_len=tokens, chat_template=TEMPLATE)
    config = Idefics3Config(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        pad_token_id=words.pad_token_id,
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": TILE,
            "patch_size": PATCH,
        },
        text_config=LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=4096,
            initializer_range=0.3,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        ),
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = generation_config(words)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
