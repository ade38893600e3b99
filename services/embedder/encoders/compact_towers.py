"""The two towers of the compact embedder as PyTorch modules: for training the heads and for building the ONNX files.

Image: pooled features of two frozen EfficientNet-Lite networks, one linear head. Text: a frozen MiniLM sentence vector,
a head with one hidden layer. Both end as unit vectors of 256 values in one space. Only the heads are trained, by
models/compact/embedder/train.py; what they learned lies in models/compact/embedder/heads.safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.common.vision.efficientnet import FEATURES, Grid, load_efficientnet
from services.common.weights import MINILM_CONFIG, MINILM_WEIGHTS

NETWORKS = ("lite2", "lite0")
DIMENSIONS = 256
SENTENCE = 384
HIDDEN = 512


class ImageHead(nn.Module):
    """Pooled features (N, 2560), those of lite2 before those of lite0 -> unit vectors (N, 256).

    Linear on purpose: with 6,000 photos to learn from, hidden layers overfit. Dropout of 70 % of the features was worth
    .065 of R@10 on flickr8k/val; see the model card.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(FEATURES * len(NETWORKS), DIMENSIONS)

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return F.normalize(self.linear(self.drop(features)), dim=-1)

    def fold(self, mean: Tensor, deviation: Tensor) -> None:
        """Builds the standardisation of the features, with which training ran, into the weights."""
        with torch.no_grad():
            self.linear.weight.div_(deviation)
            self.linear.bias.sub_(self.linear.weight @ mean)


class TextHead(nn.Module):
    """MiniLM sentence vectors (N, 384), scaled to length sqrt(384) -> unit vectors (N, 256)."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(SENTENCE, DIMENSIONS)
        self.hidden = nn.Sequential(
            nn.Linear(SENTENCE, HIDDEN), nn.GELU(), nn.Dropout(dropout), nn.Linear(HIDDEN, DIMENSIONS)
        )

    def forward(self, sentences: Tensor) -> Tensor:
        """See the class."""
        x = self.drop(sentences)
        return F.normalize(self.linear(x) + self.hidden(x), dim=-1)


class Sentences(nn.Module):
    """MiniLM with mean pooling over the tokens (https://arxiv.org/abs/1908.10084), scaled to length sqrt(384)."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # the checkpoint's pooler is left out on purpose, which it would report
        logging.disable_progress_bar()
        MINILM_WEIGHTS.verify()
        folder = MINILM_CONFIG.verify().parent
        self.model = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and their mask, (N, T) int64 each -> (N, 384)."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        total: Tensor = (states * mask).sum(1)
        return F.normalize(total, dim=-1) * float(SENTENCE**0.5)


class ImageTower(nn.Module):
    """Pixels (N, 224, 224, 3) uint8 RGB -> unit vectors (N, 256)."""

    def __init__(self, head: ImageHead) -> None:
        super().__init__()
        self.grids = nn.ModuleList(Grid(load_efficientnet(name)) for name in NETWORKS)
        self.head = head

    def features(self, pixels: Tensor) -> Tensor:
        """Pooled features (N, 2560) of both networks."""
        return torch.cat([grid(pixels).mean(1) for grid in self.grids], dim=-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.head(self.features(pixels))
        return out


class TextTower(nn.Module):
    """Token ids and mask, (N, T) int64 each -> unit vectors (N, 256)."""

    def __init__(self, head: TextHead) -> None:
        super().__init__()
        self.sentences = Sentences()
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.head(self.sentences(input_ids, attention_mask))
        return out


def load_heads(path: Path) -> tuple[ImageHead, TextHead]:
    """The trained heads of a safetensors file with the prefixes `image.` and `text.`."""
    from safetensors.torch import load_file

    tensors = {name: value.float() for name, value in load_file(path).items()}
    heads = ImageHead(), TextHead()
    for head, prefix in zip(heads, ("image.", "text."), strict=True):
        head.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return heads


def save_heads(path: Path, image: ImageHead, text: TextHead) -> None:
    """Writes both heads as float16."""
    from safetensors.torch import save_file

    tensors = {f"image.{k}": v for k, v in image.state_dict().items()}
    tensors |= {f"text.{k}": v for k, v in text.state_dict().items()}
    save_file({k: v.half().contiguous() for k, v in tensors.items()}, path)
