"""Builds SigLIP and fixed-resolution SigLIP 2 checkpoints with random weights. They differ in the tokenizer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import trainers
from tokenizers.models import BPE
from transformers import GemmaTokenizer, SiglipConfig, SiglipImageProcessorPil, SiglipModel

from .clip import spread
from .words import SENTENCES, learn

IMAGE, WIDTH, TOKENS = 32, 40, 64


def build(folder: Path, *, version: int = 2, seed: int = 0, resample: int = 2) -> Path:
    """Writes a checkpoint into `folder` and returns it.

    Version 1 has a SentencePiece tokenizer and needs the package sentencepiece; version 2 has Gemma's. `resample` is
    PIL's number of the image processor's filter: the hub has 3 (bicubic) for SigLIP and 2 (bilinear) for SigLIP 2.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = gemma_tokenizer() if version == 2 else sentencepiece_tokenizer(folder)
    tower = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = SiglipConfig(
        text_config=tower | special | {"vocab_size": len(words), "max_position_embeddings": TOKENS},
        vision_config=tower | {"image_size": IMAGE, "patch_size": 8},
    )
    model = SiglipModel(config)
    spread(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": IMAGE, "width": IMAGE}, resample=resample).save_pretrained(folder)
    return folder


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's tokenizer with a small vocabulary: its special tokens, the 256 bytes, and what a few sentences taught.

    It closes a text with <eos>, opens none with <bos>, and does not lower, as SigLIP 2's on the hub.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    texts = [*SENTENCES, *(text.title() for text in SENTENCES)]
    model = BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    vocabulary, merges = learn(model, GemmaTokenizer().backend_tokenizer, trainer, texts)
    return GemmaTokenizer(
        vocab=vocabulary,
        merges=merges,
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_max_length=TOKENS,
        model_input_names=["input_ids"],
    )


def sentencepiece_tokenizer(folder: Path) -> Any:
    """SigLIP's own tokenizer with a small vocabulary. Raises ImportError without the package sentencepiece."""
    import sentencepiece
    from transformers import SiglipTokenizer

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(folder / "spiece"),
        vocab_size=70,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return SiglipTokenizer(str(folder / "spiece.model"), model_max_length=TOKENS, model_input_names=["input_ids"])
