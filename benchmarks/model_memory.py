"""GPU memory of the paper's models by precision and preset, computed: no GPU, no weights, nothing measured.

    python -m benchmarks.model_memory

It prints the tables of docs/models.md, and a test compares them. How it computes:

- Parameters: the architectures are built at their real sizes on fake tensors, which have shapes and no memory.
  bitsandbytes quantises the weights of all Linear layers but the output head; the rest stays in fp16.
- Work: the models' own code runs on fake tensors in fp16, and torch's MemTracker adds up what would be allocated at the
  same time: KV cache, attention masks and intermediate results. Two layers run for 32: only the cache grows with them.
- int8 needs more while it works: bitsandbytes multiplies into 32-bit integers before it scales them to fp16.
- For each process: an allowance of half a GiB for the CUDA context and the libraries' own buffers, which depends on
  driver and card. A GiB of the card is left alone, and a tenth of the room for captions, since allocators waste some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.architectures import BLIP, LLAMA, LLAVA, Architecture, blip, image_tokens, llama, llava, tiles
from benchmarks.report import table

_GIB = 2**30
_CONTEXT = 0.5  # GiB of a process; an assumption
_RESERVE = 1.0  # GiB of the card that are left alone: for its driver, and a screen
_LAYERS, _INNER, _WIDTH, _KV = 32, 14336, 4096, 2 * 8 * 128  # of both language models; _KV numbers of a token and layer
_PROMPT = 60  # tokens of a caption's prompt, about
_CAPTION = 60  # WARMER_CAPTIONER_MAX_NEW_TOKENS
_REWRITE = 1024 + 100  # a long prompt with several captions, and the longest rewrite
_REWRITES = 8  # WARMER_REWRITER_BATCH
_IMAGES = _PAIRS = 16  # WARMER_EMBED_IMAGE_BATCH, WARMER_RERANK_BATCH
_BATCHES = (16, 12, 8, 6, 4, 3, 2, 1)  # of captions
SQUARE, PHOTO = (384, 384), (288, 384)  # height, width of images as the captioner gets them (WARMER_CAPTION_MAX_EDGE)
PRESETS = (("int4", "nf4", 24), ("int8", "int8", 24), ("fp16", "fp16", 48))


@dataclass(frozen=True)
class Count:
    """Parameters: in the weights of Linear layers that are quantised, these layers' rows, and in all else."""

    quantised: int
    rows: int
    kept: int

    @property
    def all(self) -> int:
        """All parameters."""
        return self.quantised + self.kept


def count(model: nn.Module) -> Count:
    """Counts what bitsandbytes would quantise, and what it would leave."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    quantised = sum(layer.weight.numel() for layer in linear)
    total = sum(parameter.numel() for parameter in model.parameters())
    return Count(quantised, sum(layer.out_features for layer in linear), total - quantised)


def weight_bytes(counted: Count, precision: str) -> float:
    """Bytes of the weights on the GPU.

    int8: a byte, and a float32 for each row. nf4: half a byte, 8 bits for each block of 64, and a float32 for each 256
    of these (double quantisation; QLoRA, arXiv 2305.14314, section 3).
    """
    if precision == "int8":
        return counted.quantised + 4 * counted.rows + 2 * counted.kept
    if precision == "nf4":
        return counted.quantised * (0.5 + 1 / 64 + 4 / (64 * 256)) + 2 * counted.kept
    return counted.all * (4 if precision == "fp32" else 2)


@cache
def counted(architecture: Architecture) -> Count:
    """The parameters of an architecture."""
    with FakeTensorMode():
        return count(architecture.build(torch.float16))


def peak(work: Callable[[], object]) -> float:
    """GiB that are allocated at once while `work` runs on fake tensors, without the weights."""
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    with torch.no_grad(), tracker:
        result = work()  # kept until the peak is read, as a caller would
        snapshot = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    del result
    held = sum(size for kind, size in snapshot.items() if getattr(kind, "name", "") in ("PARAM", "BUFFER"))
    return float(snapshot["Total"] - held) / _GIB


def cache_gib(tokens: int, batch: int) -> float:
    """GiB of the KV cache in fp16."""
    return 2 * _KV * _LAYERS * tokens * batch / _GIB


def _prefill(model: Any, batch: int, tokens: int) -> float:
    """GiB while the language model reads: two layers run, and the cache of the other thirty is added."""
    half = torch.float16

    def work() -> object:
        return model(
            inputs_embeds=torch.empty(batch, tokens, _WIDTH, dtype=half),
            attention_mask=torch.ones(batch, tokens, dtype=torch.long),
            use_cache=True,
        )

    return peak(work) + cache_gib(tokens, batch) * (_LAYERS - 2) / _LAYERS


def _int8_more(batch: int, tokens: int) -> float:
    """GiB that int8 needs beyond fp16: at the widest layer 4 + 2 + 2 bytes are held instead of 3 x 2, and its input."""
    return batch * tokens * (2 * _INNER + _WIDTH) / _GIB


@cache
def _of_a_photo(size: tuple[int, int]) -> tuple[float, float]:
    """GiB that each image of a batch needs in the vision tower, and while the language model reads."""
    batch = 4
    with FakeTensorMode():
        model: Any = llava(torch.float16, layers=2)
        pixels = torch.empty(batch * tiles(*size), 3, 336, 336, dtype=torch.float16)
        vision = peak(lambda: model.model.vision_tower(pixels, output_hidden_states=True))
        reading = _prefill(model.model.language_model, batch, image_tokens(*size) + _PROMPT)
    return vision / batch, reading / batch


def captioning(batch: int, size: tuple[int, int], precision: str) -> float:
    """GiB of work for a batch of images: of the stage that needs most."""
    tokens = image_tokens(*size) + _PROMPT
    vision, reading = (batch * each for each in _of_a_photo(size))
    reading += _int8_more(batch, tokens) if precision == "int8" else 0
    return max(vision, reading, cache_gib(tokens + _CAPTION, batch))


@cache
def _reading_rewrites() -> float:
    with FakeTensorMode():
        model: Any = llama(torch.float16, layers=2)
        return _prefill(model.model, _REWRITES, _REWRITE)


def rewriting(precision: str) -> float:
    """GiB of work for a batch of rewrites."""
    return _reading_rewrites() + (_int8_more(_REWRITES, _REWRITE) if precision == "int8" else 0)


@cache
def embedding() -> float:
    """GiB of work of BLIP: a batch of images at 384 px, and a batch of pairs that are re-ranked with texts of 300."""
    with FakeTensorMode():
        model: Any = blip(torch.float16)
        pixels = torch.empty(_IMAGES, 3, 384, 384, dtype=torch.float16)
        images = peak(lambda: model.vision_model(pixels))
        words = torch.ones(_PAIRS, 300, dtype=torch.long)
        seen = torch.empty(_PAIRS, 577, 768, dtype=torch.float16)
        pairs = peak(lambda: model.text_encoder(words, encoder_hidden_states=seen))
    return max(images, pairs)


def weights_table() -> str:
    """What each model's weights take: on disk as published, and on the GPU by precision."""
    rows = []
    for model in (BLIP, LLAVA, LLAMA):
        found = counted(model)
        quantised = [_gib(weight_bytes(found, p)) if model is not BLIP else "-" for p in ("int8", "nf4")]
        rows.append(
            [
                model.name,
                f"{found.all / 1e6:,.0f} M",
                f"{found.quantised / 1e6:,.0f} M" if model is not BLIP else "-",
                f"{model.stored * found.all / 1e9:.1f} GB",
                *(_gib(weight_bytes(found, p)) for p in ("fp32", "fp16")),
                *quantised,
            ]
        )
    return table(["model", "parameters", "of them quantised", "disk", "fp32", "fp16, bf16", "int8", "int4 (nf4)"], rows)


def work_table() -> str:
    """What each service needs while it works, beside its weights."""
    rows: list[list[object]] = [
        [f"embedder: {_IMAGES} images at 384 px, or {_PAIRS} pairs re-ranked", "-", "-", f"{embedding():.1f}", "-"]
    ]
    for what, size, batch in (
        ("square photo", SQUARE, 16),
        ("photo of 4:3", PHOTO, 16),
        ("square photo", SQUARE, 4),
        ("photo of 4:3", PHOTO, 4),
        ("square photo", SQUARE, 1),
    ):
        tokens = image_tokens(*size) + _PROMPT
        works = [f"{captioning(batch, size, p):.1f}" for p in ("fp16", "int8")]
        name = f"captioner: {batch} x a {what}, longer edge 384 px"
        rows.append([name, f"{tokens:,}", f"{cache_gib(tokens + _CAPTION, batch):.1f}", *works])
    works = [f"{rewriting(p):.1f}" for p in ("fp16", "int8")]
    rows.append([f"rewriter: {_REWRITES} rewrites", f"{_REWRITE:,}", f"{cache_gib(_REWRITE, _REWRITES):.1f}", *works])
    return table(["work", "tokens each", "KV cache", "peak, fp16 and int4", "peak, int8"], rows)


def presets_table() -> str:
    """What the presets need on one card with all three services, and how many photos are captioned at once on it."""
    rows = []
    for preset, precision, card in PRESETS:
        weights = [weight_bytes(counted(BLIP), "fp16") / _GIB]
        weights += [weight_bytes(counted(model), precision) / _GIB for model in (LLAVA, LLAMA)]
        fixed = sum(weights) + 3 * _CONTEXT + embedding() + rewriting(precision)
        room = card - _RESERVE - fixed
        fits = [_largest(room, size, precision) for size in (SQUARE, PHOTO)]
        need = fixed + captioning(fits[0], SQUARE, precision)
        rows.append(
            [
                f"`{preset}`",
                f"{card} GiB",
                *(f"{size:.1f}" for size in weights),
                f"{3 * _CONTEXT:.1f}",
                f"{embedding() + rewriting(precision):.1f}",
                f"{room:.1f}",
                *fits,
                f"{need:.1f}",
            ]
        )
    headers = ["preset", "card", "BLIP", "LLaVA", "Llama", "3 contexts", "other work", "left for captioning"]
    return table([*headers, "captions at once, square", "4:3", "sum at that, square"], rows)


def _largest(room: float, size: tuple[int, int], precision: str) -> int:
    """The largest batch of captions that fits; a tenth of the room is kept for the allocator."""
    return next((batch for batch in _BATCHES if captioning(batch, size, precision) < 0.9 * room), 0)


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f}"


def tables() -> dict[str, str]:
    """The three tables by name."""
    return {"weights": weights_table(), "work": work_table(), "presets": presets_table()}


def marked(named: Iterable[tuple[str, str]]) -> str:
    """The tables between the marks that docs/models.md has, by which the test finds them."""
    return "\n\n".join(f"<!-- {name} -->\n{text}\n<!-- end -->" for name, text in named)


if __name__ == "__main__":
    print(marked(tables().items()))
