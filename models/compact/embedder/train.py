"""Trains the heads of the compact embedder. No part of install, demo or tests.

    python -m models.compact.embedder.train --features FOLDER

FOLDER is what `python -m models.compact.features` wrote. Writes heads.safetensors (float16) beside this file and prints
text-to-image R@1/5/10 on flickr8k/val: 5,000 captions, 1,000 photos.

Three losses. Contrastive (CLIP's, with label smoothing): a photo, as it is or mirrored and with most features
dropped, against a random mix of its five captions. Distillation: the frozen networks were ImageNet classifiers, so
each training photo also says how likely each of 1,000 things is in it; the head must give the same answer when it
compares the photo with the names of the things. Synthesis: Flickr8k shows few of these things, so features are made
up for the others, by a few steps of gradient ascent on the classifier's log-probability, and must be told by name as
well. The names come from timm's word lists, which are read and not imported (`pip install --no-deps timm`).
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.compact.features import sentence_vectors
from services.common.vision.efficientnet import FEATURES, load_efficientnet
from services.embedder.encoders.compact_towers import NETWORKS, SENTENCE, ImageHead, TextHead, save_heads

HERE = Path(__file__).resolve().parent
TEMPLATES = ("{}", "a photo of a {}", "a {}")
VARIANTS = 6


def class_sentences() -> Tensor:
    """Sentence vectors (1000, VARIANTS, 384) of ImageNet's class names in several wordings."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the class names come from timm: pip install --no-deps timm")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    lemmas = dict(
        line.split("\t") for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines() if line
    )
    texts = []
    for synset in (folder / "imagenet_synsets.txt").read_text().split():
        names = [name.strip() for name in lemmas[synset].split(",")]
        wordings = [template.format(name) for name in names for template in TEMPLATES]
        texts += [wordings[i % len(wordings)] for i in range(VARIANTS)]
    return sentence_vectors(texts).view(-1, VARIANTS, SENTENCE)


class Classifier:
    """The ImageNet classifiers of the frozen networks, over their pooled features (N, 2560)."""

    def __init__(self) -> None:
        layers = [load_efficientnet(name)._fc for name in NETWORKS]
        self.weights = [layer.weight.detach() for layer in layers]  # (1000, 1280) each
        self.biases = [layer.bias.detach() for layer in layers]

    def probabilities(self, features: Tensor) -> Tensor:
        """The mean of the networks' class probabilities, (N, 1000)."""
        parts = zip(features.split(FEATURES, -1), self.weights, self.biases, strict=True)
        return torch.stack([F.linear(x, w, b).softmax(-1) for x, w, b in parts]).mean(0)

    def synthesise(self, features: Tensor, classes: Tensor, steps: int = 6) -> Tensor:
        """Moves real features (N, 2560) towards `classes` (N,): gradient ascent on the log-probability."""
        moved = []
        for x, w, b in zip(features.split(FEATURES, -1), self.weights, self.biases, strict=True):
            y = x * 0.7
            for _ in range(steps):
                p = F.linear(y, w, b).softmax(-1)
                y = (y + w[classes] - p @ w).clamp(min=0)  # features come out of a ReLU6 and a mean
            moved.append(y)
        return torch.cat(moved, -1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy against class probabilities, both (N, C)."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def recall(images: Tensor, texts: Tensor) -> list[float]:
    """R@1/5/10: images (N, D), texts (N, captions, D). The target's rank counts the images that score higher."""
    scores = texts @ images.T  # (N, captions, N)
    own = scores.diagonal(dim1=0, dim2=2).T.unsqueeze(-1)  # (N, captions, 1)
    ranks = (scores > own).sum(-1)
    return [round((ranks < k).float().mean().item(), 4) for k in (1, 5, 10)]


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    parts = {s: [np.load(args.features / f"{s}_{n}.npy") for n in NETWORKS] for s in ("train", "val")}
    photos = {s: torch.from_numpy(np.concatenate(p, -1)) for s, p in parts.items()}  # (images, 2, 2560)
    captions = {s: torch.from_numpy(np.load(args.features / f"{s}_text.npy")) for s in photos}
    mean, deviation = photos["train"].flatten(0, 1).mean(0), photos["train"].flatten(0, 1).std(0) + 1e-6
    classifier, names = Classifier(), class_sentences()
    image, text = ImageHead(args.dropout), TextHead(0.1)
    optimizer = torch.optim.AdamW([*image.parameters(), *text.parameters()], lr=args.rate, weight_decay=0.05)
    count = len(photos["train"])
    steps = args.epochs * (count // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.rate, total_steps=steps, pct_start=0.1)
    pairs = torch.arange(args.batch)
    for _ in range(args.epochs):
        order = rng.permutation(count)
        for start in range(0, count - args.batch + 1, args.batch):
            rows = order[start : start + args.batch]
            raw = photos["train"][rows, rng.integers(0, 2, len(rows))]
            mix = torch.from_numpy(rng.dirichlet([0.5] * captions["train"].shape[1], len(rows))).float()
            words = F.normalize((captions["train"][rows] * mix.unsqueeze(-1)).sum(1), dim=-1) * SENTENCE**0.5
            vectors = image((raw - mean) / deviation)
            scores = vectors @ text(words).T / args.temperature
            loss = sum(F.cross_entropy(s, pairs, label_smoothing=0.1) for s in (scores, scores.T)) / 2
            things = text(names[torch.arange(len(names)), torch.from_numpy(rng.integers(0, VARIANTS, len(names)))])
            if args.distil:
                logits = vectors @ things.T / args.temperature
                loss = loss + args.distil * soft_cross_entropy(logits, classifier.probabilities(raw))
            if args.synthesise:
                classes = torch.from_numpy(rng.integers(0, len(names), args.made_up))
                made = classifier.synthesise(raw[: args.made_up], classes)
                logits = image((made - mean) / deviation) @ things.T / args.temperature
                loss = loss + args.synthesise * soft_cross_entropy(logits, classifier.probabilities(made))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    image.eval().fold(mean, deviation)
    text.eval()
    with torch.inference_mode():
        vectors, words = image(photos["val"][:, 0]), text(captions["val"])
        print("R@1/5/10 on flickr8k/val:", recall(vectors, words), vars(args), flush=True)
    save_heads(args.out, image, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "heads.safetensors")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.7)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--distil", type=float, default=0.2, help="weight of the distillation loss")
    parser.add_argument("--synthesise", type=float, default=0.2, help="weight of the synthesis loss")
    parser.add_argument("--made-up", type=int, default=128, help="made-up features in a step")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
