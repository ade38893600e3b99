"""Trains the compact caption decoder on flickr8k/train. No part of install, demo or tests.

    python -m models.compact.captioner.train --data ../shared/data/flickr8k --features FOLDER --minutes 40

FOLDER is what `python -m models.compact.features` wrote. Writes decoder.safetensors (float16) and decoder.json (sizes
and vocabulary) beside this file. Each step takes some images, one view (as it is or mirrored) of each, and all five of
its captions, so that an image is projected once for five sentences. An average of the weights (EMA) is what is kept.
"""

from __future__ import annotations

import argparse
import collections
import copy
import csv
import dataclasses
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from services.captioner.models.compact_decoder import END, PAD, SPECIAL_WORDS, START, UNKNOWN, CaptionDecoder
from services.captioner.models.compact_decoder import DecoderConfig as Config

HERE = Path(__file__).resolve().parent
MIN_COUNT = 5
CAPTIONS = 5


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())


def read(folder: Path) -> dict[str, list[list[str]]]:
    """Image name -> its captions as words, in the order of the file."""
    captions: dict[str, list[list[str]]] = {}
    with (folder / "images_captions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image_name"], []).append(words_of(row["comment"]))
    return captions


def vocabulary_of(captions: dict[str, list[list[str]]]) -> list[str]:
    counts = collections.Counter(word for sentences in captions.values() for s in sentences for word in s)
    return [*SPECIAL_WORDS, *sorted(word for word, n in counts.items() if n >= MIN_COUNT)]


def encode(captions: dict[str, list[list[str]]], vocabulary: list[str], length: int) -> torch.Tensor:
    """(images, captions, length + 1): start, words, end, padding."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    out = torch.full((len(captions), CAPTIONS, length + 1), PAD)
    for i, sentences in enumerate(captions.values()):
        for j in range(CAPTIONS):
            row = [START, *(ids.get(w, UNKNOWN) for w in sentences[j % len(sentences)][: length - 1]), END]
            out[i, j, : len(row)] = torch.tensor(row)
    return out


def loss_of(model: CaptionDecoder, grids: torch.Tensor, captions: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy of each next word; grids (B, 49, 1280), captions (B, 5, T)."""
    image = [m.repeat_interleave(CAPTIONS, dim=1) for m in model.see(grids)]
    words = captions.flatten(0, 1)
    words = words[:, : int((words != PAD).sum(1).max())]
    logits, _ = model(words[:, :-1], image)
    return F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten(), ignore_index=PAD, label_smoothing=smoothing)


def save(model: CaptionDecoder, vocabulary: list[str], folder: Path) -> None:
    tensors = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "decoder.safetensors")
    sizes = dataclasses.asdict(model.config)
    (folder / "decoder.json").write_text(json.dumps({"config": sizes, "vocabulary": vocabulary}, indent=0) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="flickr8k, with train/ and val/")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32, help="images in a step")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--feature-dropout", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--resume", action="store_true", help="start from the weights in --out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)

    captions = {split: read(args.data / split) for split in ("train", "val")}
    vocabulary = vocabulary_of(captions["train"])
    config = Config(vocabulary=len(vocabulary), dropout=args.dropout, feature_dropout=args.feature_dropout)
    grids = {split: np.load(args.features / f"{split}_lite2_grid.npy", mmap_mode="r") for split in captions}
    targets = {split: encode(captions[split], vocabulary, config.max_words) for split in captions}
    model = CaptionDecoder(config)
    if args.resume:
        model.load_state_dict({k: v.float() for k, v in load_file(args.out / "decoder.safetensors").items()})
    ema = copy.deepcopy(model).eval()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {len(vocabulary)} words", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.05, betas=(0.9, 0.98))
    images = len(targets["train"])
    steps = args.epochs * (images // args.batch)
    start, step = time.monotonic(), 0
    for epoch in range(args.epochs):
        model.train()
        losses = []
        order = rng.permutation(images)
        for i in range(0, images - args.batch + 1, args.batch):
            # The clock may end the schedule early: progress is the larger of steps done and time spent.
            done = max(step / steps, (time.monotonic() - start) / (60 * args.minutes))
            if done >= 1:
                break
            optimizer.param_groups[0]["lr"] = (
                args.rate * min(1, step / 300) * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
            )
            rows = order[i : i + args.batch]
            view = rng.integers(0, 2, len(rows))
            batch = torch.from_numpy(np.stack([grids["train"][r, v] for r, v in zip(rows, view, strict=True)])).float()
            loss = loss_of(model, batch, targets["train"][rows], smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                decay = min(0.998, (1 + step) / (10 + step))
                for mean, now in zip(ema.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 1 - decay)
            losses.append(loss.item())
        with torch.inference_mode():
            val = [
                loss_of(
                    ema, torch.from_numpy(grids["val"][i : i + 50, 0]).float(), targets["val"][i : i + 50], 0.0
                ).item()
                for i in range(0, len(targets["val"]), 50)
            ]
        seconds = time.monotonic() - start
        print(f"epoch {epoch} train {np.mean(losses):.3f} val {np.mean(val):.3f} {seconds:.0f} s", flush=True)
        save(ema, vocabulary, args.out)
        if done >= 1:
            break


if __name__ == "__main__":
    main()
