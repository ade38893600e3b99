"""Reads BLIP weights as the original code saves them, and turns them into what transformers' BLIP takes.

The original (Li et al. 2022, https://arxiv.org/abs/2201.12086) saves `{"model": state_dict}`; Lightning saves
`{"state_dict": ...}` with a prefix before each name. The file carries no sizes, so they are read off the shapes. The
text half has the same names on both sides; the image half is a timm ViT there, and is renamed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from torch.nn import functional

from warmer.errors import FailedPrecondition

_log = structlog.get_logger(__name__)

SUFFIXES = (".pth", ".ckpt", ".pt")
_CONTAINERS = ("model", "state_dict")
_ZIP = b"PK\x03\x04"  # what torch.save has written since 1.6; only such files can be mapped into memory
_HEAD_SIZE = 64  # of every BLIP that was published, ViT-B and ViT-L alike
_CLS = "visual_encoder.cls_token"
_POSITIONS = "vision_model.embeddings.position_embedding"
_KEPT = ("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj.", "itm_head.")
# Parts of the original's text encoder that neither embedding nor matching reads.
_UNREAD = ("text_encoder.embeddings.position_ids", "text_encoder.pooler.", "text_encoder.cls.")
_RENAMED = (
    (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", _POSITIONS),
    (r"visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv."),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Heads:
    """Number of attention heads, which no shape tells; 0: as many as there are 64 numbers in the width."""

    vision: int = 0
    text: int = 0


@dataclass(frozen=True)
class Converted:
    """`state` has transformers' names; `sizes` are arguments of BlipConfig; `can_match` says whether the matching head
    and the cross-attention that it needs are there."""

    state: State
    sizes: dict[str, Any]
    can_match: bool


def read(path: Path) -> State:
    """The weights of a file, under the original's names, without momentum copies, queues and decoders.

    Raises FailedPrecondition (MODEL_DAMAGED, UNSAFE_CHECKPOINT or WRONG_ARCHITECTURE).
    """
    weights = dict(_tensors(_content(path)))
    prefixes = sorted((name.removesuffix(_CLS) for name in weights if name.endswith(_CLS)), key=len)
    if not prefixes:
        raise _no_blip(path, weights)
    found = {name.removeprefix(prefixes[0]): value for name, value in weights.items() if name.startswith(prefixes[0])}
    kept = {name: value for name, value in found.items() if name.startswith(_KEPT) and not name.startswith(_UNREAD)}
    _log.debug("weights of the checkpoint that are not read", file=path.name, names=sorted(found.keys() - kept.keys()))
    return kept


def convert(state: State, path: Path, heads: Heads) -> Converted:
    """The original's weights with the names and sizes that transformers wants.

    Raises FailedPrecondition (WRONG_ARCHITECTURE) when a weight is missing that the sizes are read from, or a width is
    no whole number of heads. Other weights that are missing are found when the model is filled.
    """
    sizes = _Shapes(state, path)
    crossed = any(".crossattention." in name for name in state)
    has_head = "itm_head.weight" in state and "itm_head.bias" in state
    return Converted(
        {_renamed(name): value for name, value in state.items()}, sizes.config(heads), crossed and has_head
    )


def resized_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Position embeddings (1, 1 + n * n, D) of n x n patches, for grid x grid patches; the first, of the class token,
    stays. Bicubic, as the original's `interpolate_pos_embed`."""
    before = math.isqrt(positions.shape[1] - 1)
    if before == grid:
        return positions
    patches = positions[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)  # (1, D, n, n)
    patches = functional.interpolate(patches.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    flat = patches.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)  # (1, grid * grid, D)
    return torch.cat([positions[:, :1], flat], dim=1)


class _Shapes:
    """Reads sizes off the shapes of weights."""

    def __init__(self, state: State, path: Path) -> None:
        self._state = state
        self._path = path

    def config(self, heads: Heads) -> dict[str, Any]:
        """Arguments of BlipConfig."""
        _, positions, width = self._shape("visual_encoder.pos_embed", 3)
        patch = self._shape("visual_encoder.patch_embed.proj.weight", 4)[-1]
        words, text_width = self._shape("text_encoder.embeddings.word_embeddings.weight", 2)
        layer = "text_encoder.encoder.layer.0"
        text = {
            "vocab_size": words,
            "hidden_size": text_width,
            "encoder_hidden_size": width,
            "intermediate_size": self._shape(f"{layer}.intermediate.dense.weight", 2)[0],
            "max_position_embeddings": self._shape("text_encoder.embeddings.position_embeddings.weight", 2)[0],
            "num_hidden_layers": self._count(r"text_encoder\.encoder\.layer\.(\d+)\."),
            "num_attention_heads": self._heads(text_width, heads.text, "text"),
            # transformers' word for "has cross-attention"; nothing is masked causally because of it.
            "is_decoder": f"{layer}.crossattention.self.query.weight" in self._state,
        }
        vision = {
            "hidden_size": width,
            "intermediate_size": self._shape("visual_encoder.blocks.0.mlp.fc1.weight", 2)[0],
            "num_hidden_layers": self._count(r"visual_encoder\.blocks\.(\d+)\."),
            "num_attention_heads": self._heads(width, heads.vision, "image"),
            "image_size": math.isqrt(positions - 1) * patch,
            "patch_size": patch,
            "layer_norm_eps": 1e-6,  # the original's; transformers' default is another
        }
        projection = self._shape("vision_proj.weight", 2)[0]
        return {"vision_config": vision, "text_config": text, "image_text_hidden_size": projection}

    def _shape(self, name: str, axes: int) -> tuple[int, ...]:
        value = self._state.get(name)
        if value is None or value.ndim != axes:
            what = f"lacks {name}" if value is None else f"has {name} in the shape {tuple(value.shape)}"
            raise _wrong(f"{self._path} is no image-text model of BLIP: it {what}")
        return tuple(value.shape)

    def _count(self, pattern: str) -> int:
        return 1 + max(int(match[1]) for name in self._state if (match := re.match(pattern, name)))

    def _heads(self, width: int, given: int, half: str) -> int:
        heads = given or width // _HEAD_SIZE
        if not heads or width % heads or (not given and width % _HEAD_SIZE):
            raise _wrong(
                f"{self._path} has a width of {width} in its {half} half, which is no multiple of {_HEAD_SIZE}"
            )
        return heads


def _content(path: Path) -> object:
    """What torch.save wrote."""
    with path.open("rb") as file:
        mappable = file.read(len(_ZIP)) == _ZIP
    try:
        # Mapped: the momentum copies, half of a checkpoint of the original, are then never read from the disk.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except Exception as error:  # torch raises what it likes for a file that is no such file, or not all of it
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise (_unsafe(path, refused[1]) if refused else _damaged(path, error)) from error


def _tensors(content: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of what a file held: a state dict, or a dictionary around one."""
    if not isinstance(content, Mapping):
        return
    for container in _CONTAINERS:
        if isinstance(content.get(container), Mapping):
            yield from _tensors(content[container])
            return
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            yield name, value


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        new, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return new
    return name


def _wrong(message: str) -> FailedPrecondition:
    return FailedPrecondition(
        message,
        reason="WRONG_ARCHITECTURE",
        hint="give a retrieval checkpoint of BLIP: model_base_retrieval_coco.pth, chatir_weights.ckpt or one like them",
    )


def _no_blip(path: Path, weights: Mapping[str, object]) -> FailedPrecondition:
    what = f"its {len(weights)} weights begin with {next(iter(weights))}" if weights else "it holds no weights by name"
    return _wrong(f"{path} is no image-text model of BLIP: it lacks {_CLS}; {what}")


def _unsafe(path: Path, name: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} holds a pickled {name} beside its weights; loading such things can run code, so it is refused",
        reason="UNSAFE_CHECKPOINT",
        hint="save its weights alone, where you trust it: torch.save({'model': model.state_dict()}, file)",
    )


def _damaged(path: Path, error: Exception) -> FailedPrecondition:
    lines = [line.strip() for line in str(error).rpartition("WeightsUnpickler error:")[2].splitlines()]
    said = next(filter(None, lines), "it ends too early").partition(". ")[0][:200]
    return FailedPrecondition(
        f"{path} ({path.stat().st_size:,} bytes) is cut off, damaged or no file of torch.save: {said}",
        reason="MODEL_DAMAGED",
        hint="compare its size and sha256 with the source's, and bring it again; `warmer models verify` does that",
    )
