"""Builds CLIP checkpoints with random weights, in the files that `save_pretrained` writes and the hub holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from .words import SENTENCES, learn

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_END = "</w>"


@dataclass(frozen=True)
class Size:
    """Measures of a CLIP. The two towers of `TINY` differ in width, so that nothing fits by chance."""

    text: int
    vision: int
    projection: int
    layers: int
    heads: int
    image: int
    patch: int


TINY = Size(text=32, vision=48, projection=24, layers=2, heads=2, image=32, patch=8)
VIT_B_32 = Size(text=512, vision=768, projection=512, layers=12, heads=8, image=224, patch=32)


def build(
    folder: Path, *, size: Size = TINY, seed: int = 0, shortest_edge: int = 0, texts: Sequence[str] = SENTENCES
) -> Path:
    """Writes a checkpoint into `folder` and returns it.

    `shortest_edge` is what the image processor resizes to before it crops; 0: the size of the crop. The tokenizer knows
    most words of `texts` as a whole.
    """
    torch.manual_seed(seed)
    words = tokenizer(texts)
    towers = {"num_hidden_layers": size.layers}
    config = CLIPConfig(
        text_config={
            **towers,
            "vocab_size": len(words),
            "hidden_size": size.text,
            "intermediate_size": 4 * size.text,
            "num_attention_heads": size.heads,
            "max_position_embeddings": 77,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={
            **towers,
            "hidden_size": size.vision,
            "intermediate_size": 4 * size.vision,
            "num_attention_heads": size.heads,
            "image_size": size.image,
            "patch_size": size.patch,
        },
        projection_dim=size.projection,
    )
    model = CLIPModel(config)
    if size is TINY:
        spread(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    edges = {"size": {"shortest_edge": shortest_edge or size.image}, "crop_size": size.image}
    CLIPImageProcessorPil(**edges).save_pretrained(folder)
    return folder


def spread(model: torch.nn.Module) -> None:
    """Makes random weights larger: as they are drawn for training, every input gives nearly the same vector."""
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                weights.mul_(4.0 if "embedding" in name else 2.0)


def tokenizer(texts: Sequence[str] = SENTENCES) -> CLIPTokenizer:
    """CLIP's tokenizer with a small vocabulary: the bytes, each also as the end of a word, what `texts` taught, and the
    two special tokens last, as in CLIP's own."""
    trainer = trainers.BpeTrainer(vocab_size=300 + 10 * len(texts), end_of_word_suffix=_END, show_progress=False)
    _, merges = learn(BPE(end_of_word_suffix=_END), CLIPTokenizer().backend_tokenizer, trainer, texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, *(letter + _END for letter in alphabet), *("".join(pair) for pair in merges), *_SPECIAL]
    vocabulary = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
