"""The compact caption decoder: a small transformer that reads a 7 x 7 grid of image features and writes a sentence.

It is small enough to read from top to bottom: `CaptionDecoder` is the network, `beam_search` writes with it. It is
trained by models/compact/captioner/train.py and used by compact.py. The layers are those of "Attention Is All You
Need" (arXiv 1706.03762), pre-norm; length-normalised beam search follows "Google's Neural Machine Translation System"
(arXiv 1609.08144).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAD, START, END, UNKNOWN = range(4)
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unknown>")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder; stored beside its weights."""

    vocabulary: int
    features: int = 1280
    cells: int = 49
    width: int = 256
    heads: int = 4
    layers: int = 3
    max_words: int = 24
    dropout: float = 0.2
    feature_dropout: float = 0.0  # of the image features: in the embedder this was worth more than anything else


class Attention(nn.Module):
    """Multi-head attention of x over a memory, or over itself with a causal mask and a cache."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, heads, T, W / heads)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def memory(self, x: Tensor) -> Tensor:
        """Keys and values of x, (2, B, heads, T, W / heads), to be used again for every word."""
        keys, values = self.key_value(x).chunk(2, -1)
        return torch.stack([self.split(keys), self.split(values)])

    def forward(self, x: Tensor, memory: Tensor, causal: bool = False) -> Tensor:
        """(B, T, W) attends to a `memory` made by the method of that name."""
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            self.split(self.query(x)), memory[0], memory[1], dropout_p=dropout, is_causal=causal
        )
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Self-attention over the words so far, cross-attention over the image, and a feed-forward layer."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.width
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, config.heads, config.dropout)
        self.cross_attention = Attention(width, config.heads, config.dropout)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(config.dropout)

    def look(self, image: Tensor) -> Tensor:
        """Keys and values of the image (B, cells, W), for the cross-attention of every word."""
        return self.cross_attention.memory(image)

    def forward(self, x: Tensor, image: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, T, W) -> the same shape, and the keys and values of all words so far."""
        y = self.self_norm(x)
        memory = self.self_attention.memory(y)
        if past is not None:
            memory = torch.cat([past, memory], dim=-2)
        x = x + self.drop(self.self_attention(y, memory, causal=past is None))
        x = x + self.drop(self.cross_attention(self.cross_norm(x), image))
        return x + self.drop(self.mlp(self.mlp_norm(x))), memory


class CaptionDecoder(nn.Module):
    """Image features and the words so far -> scores of the next word."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image_norm = nn.LayerNorm(config.features)
        self.feature_drop = nn.Dropout(config.feature_dropout)
        self.image = nn.Linear(config.features, config.width)
        self.cell = nn.Parameter(torch.randn(config.cells, config.width) * 0.02)
        self.image_drop = nn.Dropout(config.dropout)
        self.word = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Parameter(torch.randn(config.max_words + 1, config.width) * 0.02)
        nn.init.normal_(self.word.weight, std=0.02)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def see(self, grids: Tensor) -> list[Tensor]:
        """Grids (B, cells, features) -> the keys and values of the image for every block."""
        x = self.image_drop(self.image(self.feature_drop(self.image_norm(grids))) + self.cell)
        return [block.look(x) for block in self.blocks if isinstance(block, Block)]

    def forward(
        self, words: Tensor, image: list[Tensor], past: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Words (B, T) after `past` -> logits (B, T, vocabulary), and the new past."""
        start = past[0].shape[-2] if past else 0
        x = self.drop(self.word(words) + self.position[start : start + words.shape[1]])
        memories = []
        for i, block in enumerate(self.blocks):
            x, memory = block(x, image[i], past[i] if past else None)
            memories.append(memory)
        # The output layer shares its weights with the word embedding: fewer parameters, less overfitting.
        return F.linear(self.norm(x), self.word.weight), memories


@torch.inference_mode()
def beam_search(
    decoder: CaptionDecoder,
    grids: Tensor,
    *,
    beams: int = 5,
    length_penalty: float = 1.0,
) -> list[list[int]]:
    """The best sentence for each image, as word ids without the special ones.

    Args:
        decoder: in eval mode.
        grids: (B, cells, features) float32.
        beams: sentences kept for each image.
        length_penalty: exponent of the length that divides a sentence's log-probability.
    """
    count, vocabulary, limit = len(grids), decoder.config.vocabulary, decoder.config.max_words
    image = [m.repeat_interleave(beams, dim=1) for m in decoder.see(grids)]
    words = torch.full((count * beams, 1), START)  # (B * beams, T)
    scores = torch.full((count, beams), float("-inf"))
    scores[:, 0] = 0.0  # all beams start alike: only the first may be extended
    ended = torch.zeros(count, beams, dtype=torch.bool)
    lengths = torch.ones(count, beams)
    past: list[Tensor] | None = None
    for _ in range(limit):
        logits, past = decoder(words[:, -1:], image, past)
        log_p = logits[:, -1].log_softmax(-1).view(count, beams, vocabulary)
        log_p[..., [PAD, START, UNKNOWN]] = float("-inf")
        # An ended sentence is carried on unchanged by a free padding word.
        log_p[ended] = float("-inf")
        log_p[..., PAD][ended] = 0.0
        total = scores.unsqueeze(-1) + log_p  # (B, beams, vocabulary)
        grown = (lengths + (~ended).float()).unsqueeze(-1)
        best = (total / grown**length_penalty).flatten(1).topk(beams, dim=-1).indices  # (B, beams)
        origin, word = best // vocabulary, best % vocabulary
        scores = total.flatten(1).gather(1, best)
        lengths = grown.squeeze(-1).gather(1, origin)
        ended = ended.gather(1, origin) | (word == END)
        rows = (torch.arange(count).unsqueeze(1) * beams + origin).flatten()
        words = torch.cat([words[rows], word.view(-1, 1)], dim=1)
        past = [m[:, rows] for m in past]
        if bool(ended.all()):
            break
    choice = (scores / lengths**length_penalty).argmax(-1)
    return [_clean(s) for s in words.view(count, beams, -1)[torch.arange(count), choice].tolist()]


def _clean(words: list[int]) -> list[int]:
    """Cuts a sentence at its end and drops special words."""
    if END in words:
        words = words[: words.index(END)]
    return [w for w in words if w > UNKNOWN]
