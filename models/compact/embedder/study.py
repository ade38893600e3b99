"""What each term of `fused` is worth: hunts on flickr8k/val played in numpy. No part of install, demo or tests.

    python -m models.compact.embedder.study --data ../shared/data/flickr8k/val --features FOLDER [--half 1]

FOLDER is what `python -m models.compact.features` wrote. Plays the hunts of `warmer bench run --images-subset half:H`
(cumulative protocol, one mark each round, no comments) without services, so that many settings can be compared in
seconds; it agrees with the services to the third decimal. Prints Hits@10 by round, and `fused` minus each ablation at
the last round with a 95 % interval, images resampled together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from models.compact.embedder.choice import HERE, read
from models.compact.features import captions_of
from services.embedder.choice import ChoiceSimilarity
from services.embedder.encoders.compact_towers import SENTENCE, load_heads
from services.embedder.ranking import choice_log_likelihood, mixed
from warmer.bench.selection import half_of

ROUNDS, SHOWN = 3, 10
LOOKS, CONTENT = ("vectors", 0.05, 0.05), ("learned", 0.1, 0.3)


@dataclass(frozen=True)
class Setting:
    """A setting of `fused`: weight of the step, tau_q, and choice models (similarity, tau_u, lapse) with weights."""

    step: float = 0.125
    prior: float = 0.04
    models: tuple[tuple[str, float, float], ...] = (LOOKS, CONTENT)
    weights: tuple[float, ...] = (0.1, 0.9)


FUSED = Setting()
ABLATIONS = {
    "no choice models: the step alone": replace(FUSED, prior=0.0),
    "no step": replace(FUSED, step=0.0),
    "choices by looks alone": replace(FUSED, models=(LOOKS,), weights=(1.0,)),
    "choices by content alone": replace(FUSED, models=(CONTENT,), weights=(1.0,)),
    "nothing: the next page": replace(FUSED, step=0.0, prior=0.0),
}


class Study:
    """The photos of val, their queries, and both users."""

    def __init__(self, data: Path, features: Path, half: int) -> None:
        self.vectors, sentences = read(features, "val")  # (N, 256), (N, 384)
        texts = F.normalize(torch.from_numpy(np.load(features / "val_text.npy")).float(), dim=-1) * SENTENCE**0.5
        with torch.inference_mode():
            self.queries = load_heads(HERE / "heads.safetensors")[1].eval()(texts.flatten(0, 1)).numpy()
        self.queries = self.queries.reshape(len(self.vectors), -1, self.vectors.shape[1])  # (N, 5, 256)
        self.targets = [i for i, name in enumerate(captions_of(data)) if half_of(name) == half]
        learned = ChoiceSimilarity.load(HERE / "choice.safetensors", HERE / "heads.safetensors")
        probes, offsets = learned.probes(self.vectors)
        plain = self.vectors @ self.vectors.T
        self.alike = {"vectors": plain, "learned": probes @ self.vectors.T + offsets[:, None]}
        self.users = {"semantic": sentences @ sentences.T, "visual": plain}

    def play(self, user: str, setting: Setting) -> np.ndarray:
        """Whether the target was displayed by each round: (images, queries of one, ROUNDS + 1) bool."""
        hits = [[self.hunt(t, q, self.users[user], setting) for q in self.queries[t]] for t in self.targets]
        return np.array(hits)

    def hunt(self, target: int, query: np.ndarray, eyes: np.ndarray, setting: Setting) -> list[bool]:
        """One hunt, by round."""
        chosen: list[int] = []
        seen = np.zeros(len(self.vectors), bool)
        logs = np.zeros((len(setting.models), len(self.vectors)), np.float32)
        for index in range(ROUNDS + 1):
            step = setting.step * self.vectors[chosen].mean(0) if chosen else 0
            moved = query + step
            scores = self.vectors @ (moved / np.linalg.norm(moved)) + setting.prior * mixed(logs, setting.weights)
            scores[seen] = -np.inf
            shown = np.argpartition(-scores, SHOWN)[:SHOWN]
            if target in shown:
                return [i >= index for i in range(ROUNDS + 1)]
            seen[shown] = True
            mark = shown[np.argmax(eyes[target, shown])]
            chosen.append(int(mark))
            rest = shown[shown != mark]
            for k, (kind, temperature, lapse) in enumerate(setting.models):
                s = self.alike[kind]
                logs[k] += choice_log_likelihood(s[[mark]], s[:0], s[rest], temperature=temperature, lapse=lapse)
        return [False] * (ROUNDS + 1)


def interval(difference: Sequence[float] | np.ndarray) -> str:
    """Mean and 95 % interval of a value for each image."""
    values, rng = np.asarray(difference), np.random.default_rng(0)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(1000)]
    return f"{values.mean():+.4f} [{np.quantile(means, 0.025):+.4f}, {np.quantile(means, 0.975):+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="flickr8k/val")
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--half", type=int, default=1, choices=[0, 1])
    options = parser.parse_args()
    study = Study(options.data, options.features, options.half)
    print("| user | setting | Hits@10, rounds 0..3 | `fused` minus it |\n|---|---|---|---|")
    for user in study.users:
        full = study.play(user, FUSED)
        print(f"| {user} | `fused` | {_row(full)} | |", flush=True)
        for name, setting in ABLATIONS.items():
            hits = study.play(user, setting)
            difference = (full[..., -1].astype(float) - hits[..., -1]).mean(1)
            print(f"| {user} | {name} | {_row(hits)} | {interval(difference)} |", flush=True)


def _row(hits: np.ndarray) -> str:
    return " ".join(f"{value:.3f}".removeprefix("0") for value in hits.mean((0, 1)))


if __name__ == "__main__":
    main()
