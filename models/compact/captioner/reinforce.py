"""Second stage of the captioner's training: CIDEr-D, the score itself, as reward. No part of install, demo or tests.

    python -m models.compact.captioner.reinforce --data ../shared/data/flickr8k --features FOLDER --epochs 4

Starts from the decoder in --out, which train.py wrote, and replaces it. For each image it samples five sentences, and
makes those more likely that score above the mean of the other four: "Self-critical Sequence Training" (arXiv
1612.00563) with the baseline of "A Better Variant of Self-Critical Sequence Training" (arXiv 2003.09971).
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from models.compact.captioner.train import HERE, encode, read, save
from services.captioner.models.compact_decoder import (
    END,
    PAD,
    START,
    UNKNOWN,
    CaptionDecoder,
    DecoderConfig,
    beam_search,
)

SAMPLES = 5
EVALUATE_STEPS = 60
ORDERS = 4  # n-grams of one to four words, as in the standard scorer
SIGMA = 6.0  # of the length penalty, as in the standard scorer
Counts = collections.Counter[tuple[int, ...]]
Vector = list[dict[tuple[int, ...], float]]  # one tf-idf vector for each order


def grams(words: Sequence[int]) -> Counts:
    """All n-grams of a sentence. Its end counts as a word, so that a sentence that breaks off is scored lower."""
    return collections.Counter(tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def sentence_of(row: Sequence[int]) -> list[int]:
    """The words of a row of ids up to and with its end."""
    words = [w for w in row if w not in (PAD, START)]
    return words[: words.index(END) + 1] if END in words else words


class CiderD:
    """CIDEr-D (arXiv 1411.5726) against the references of fixed images, whose vectors are computed once."""

    def __init__(self, references: Tensor) -> None:
        """references: (images, captions, T) word ids as `encode` makes them."""
        sentences = [[sentence_of(row) for row in image] for image in references.tolist()]
        frequency: Counts = collections.Counter()
        for image in sentences:
            frequency.update({gram for words in image for gram in grams(words)})
        self._log_frequency = {gram: math.log(n) for gram, n in frequency.items()}
        self._log_images = math.log(len(sentences))
        self._references = [[self._vector(words) for words in image] for image in sentences]

    def _vector(self, words: Sequence[int]) -> tuple[Vector, list[float], int]:
        vector: Vector = [{} for _ in range(ORDERS)]
        for gram, n in grams(words).items():
            vector[len(gram) - 1][gram] = n * (self._log_images - self._log_frequency.get(gram, 0.0))
        return vector, [math.sqrt(sum(v * v for v in part.values())) for part in vector], len(words)

    def score(self, image: int, words: Sequence[int]) -> float:
        """The score of a sentence (with its end) for an image, 0 to 10."""
        ours, our_norms, our_length = self._vector(words)
        total = 0.0
        for theirs, their_norms, their_length in self._references[image]:
            penalty = math.exp(-((our_length - their_length) ** 2) / (2 * SIGMA**2))
            for a, b, a_norm, b_norm in zip(ours, theirs, our_norms, their_norms, strict=True):
                if a_norm and b_norm:
                    dot = sum(min(v, b[gram]) * b[gram] for gram, v in a.items() if gram in b)
                    total += penalty * dot / (a_norm * b_norm)
        return 10 * total / ORDERS / len(self._references[image])


@torch.inference_mode()
def sample(model: CaptionDecoder, image: list[Tensor]) -> Tensor:
    """Draws a sentence for each row of what `see` made: (rows, 1 + T) word ids, from START to END and padding."""
    words = torch.full((image[0].shape[1], 1), START)
    ended = torch.zeros(len(words), dtype=torch.bool)
    past: list[Tensor] | None = None
    for _ in range(model.config.max_words):
        logits, past = model(words[:, -1:], image, past)
        scores = logits[:, -1]
        scores[:, [PAD, START, UNKNOWN]] = float("-inf")
        word = torch.multinomial(scores.softmax(-1), 1).masked_fill(ended.unsqueeze(1), PAD)
        words = torch.cat([words, word], dim=1)
        ended |= word.squeeze(1) == END
        if bool(ended.all()):
            break
    return words


def log_likelihood(model: CaptionDecoder, image: list[Tensor], words: Tensor) -> Tensor:
    """Log-probability of each word after the first, (rows, T), zero where there is padding."""
    logits, _ = model(words[:, :-1], image)
    return -F.cross_entropy(logits.transpose(1, 2), words[:, 1:], ignore_index=PAD, reduction="none")


def loss_of(model: CaptionDecoder, grids: Tensor, rows: np.ndarray, reward: CiderD) -> tuple[Tensor, float]:
    """The policy-gradient loss of a batch of images, and the mean reward of what was drawn."""
    # Only image features are dropped, and the same ones while a sentence is drawn and while it is judged: with dropout
    # inside the decoder what is judged is not what drew, and training diverged.
    image = [m.repeat_interleave(SAMPLES, dim=1) for m in model.train().see(grids)]
    words = sample(model.eval(), image).clone()
    scores = torch.tensor(
        [reward.score(rows[j // SAMPLES], sentence_of(row)) for j, row in enumerate(words.tolist())]
    ).view(-1, SAMPLES)
    others = (scores.sum(1, keepdim=True) - scores) / (SAMPLES - 1)
    advantage = (scores - others).view(-1, 1)
    loss = -(advantage * log_likelihood(model, image, words)).sum() / (words[:, 1:] != PAD).sum()
    return loss, scores.mean().item()


def score_of(model: CaptionDecoder, grids: np.ndarray, reward: CiderD) -> float:
    """CIDEr-D of beam search on all images (N, views, 49, 1280), as they are. The standard scorer counts no end of a
    sentence and tokenises itself, so its figure is lower; the order is the same."""
    found: list[list[int]] = []
    for i in range(0, len(grids), 50):
        found += beam_search(model, torch.from_numpy(grids[i : i + 50, 0].astype(np.float32)))
    return float(np.mean([reward.score(i, [*words, END]) for i, words in enumerate(found)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="flickr8k, with train/ and val/")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="images in a step")
    parser.add_argument("--rate", type=float, default=1.5e-5)
    parser.add_argument("--feature-dropout", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    stored = json.loads((args.out / "decoder.json").read_text())
    vocabulary = stored["vocabulary"]
    sizes = stored["config"] | {"dropout": 0.0, "feature_dropout": args.feature_dropout}
    model = CaptionDecoder(DecoderConfig(**sizes)).train()
    model.load_state_dict({k: v.float() for k, v in load_file(args.out / "decoder.safetensors").items()})
    ema = copy.deepcopy(model).eval()
    captions = {split: read(args.data / split) for split in ("train", "val")}
    grids = {split: np.load(args.features / f"{split}_lite2_grid.npy", mmap_mode="r") for split in captions}
    targets = {split: encode(captions[split], vocabulary, model.config.max_words) for split in captions}
    reward, val = CiderD(targets["train"]), CiderD(targets["val"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.01, betas=(0.9, 0.98))
    images = len(targets["train"])
    steps, step, start, best = args.epochs * (images // args.batch), 0, time.monotonic(), -math.inf
    for _ in range(args.epochs):
        rewards, order = [], rng.permutation(images)
        for i in range(0, images - args.batch + 1, args.batch):
            optimizer.param_groups[0]["lr"] = args.rate * min(1, step / 50) * (1 - 0.9 * step / steps)
            rows = order[i : i + args.batch]
            view = rng.integers(0, 2, len(rows))
            batch = torch.from_numpy(np.stack([grids["train"][r, v] for r, v in zip(rows, view, strict=True)])).float()
            loss, mean_reward = loss_of(model, batch, rows, reward)
            rewards.append(mean_reward)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                decay = min(0.99, (1 + step) / (10 + step))
                for kept, now in zip(ema.parameters(), model.parameters(), strict=True):
                    kept.lerp_(now, 1 - decay)
            if step % EVALUATE_STEPS and step != steps:
                continue
            score = score_of(ema, grids["val"], val)
            mean = np.mean(rewards[-EVALUATE_STEPS:])
            print(f"step {step} of {steps} reward {mean:.3f} val {score:.3f} {time.monotonic() - start:.0f} s")
            sys.stdout.flush()
            if score > best:
                best = score
                save(ema, vocabulary, args.out)


if __name__ == "__main__":
    main()
