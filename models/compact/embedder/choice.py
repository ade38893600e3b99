"""Fits the learned choice similarity of the compact embedder. No part of install, demo or tests.

    python -m models.compact.embedder.choice --features FOLDER

FOLDER is what `python -m models.compact.features` wrote. From the stored vector of a photo (256-d), ridge regression
predicts the mean MiniLM sentence vector of its human captions, on flickr8k/train; two photos are as alike as the
sentence vectors that are predicted for them. Writes choice.safetensors beside this file and prints, on flickr8k/val,
how well that correlates with the similarity of the human captions. Takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional as F

from services.common.weights import sha256_of
from services.embedder.encoders.compact_towers import load_heads

HERE = Path(__file__).resolve().parent
RIDGE = 10.0


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Stored vectors (N, 256), and unit mean sentence vectors of the captions (N, 384)."""
    head = load_heads(HERE / "heads.safetensors")[0].eval()
    pooled = [np.load(folder / f"{split}_{network}.npy")[:, 0] for network in ("lite2", "lite0")]
    with torch.inference_mode():
        vectors = head(torch.from_numpy(np.concatenate(pooled, -1)).float())
    sentences = F.normalize(torch.from_numpy(np.load(folder / f"{split}_text.npy")).float(), dim=-1)
    return vectors.numpy(), F.normalize(sentences.mean(1), dim=-1).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    features = parser.parse_args().features
    vectors, sentences = read(features, "train")
    mean = sentences.mean(0)
    gram = vectors.T @ vectors + RIDGE * np.eye(vectors.shape[1], dtype=np.float32)
    weight = np.linalg.solve(gram, vectors.T @ (sentences - mean))  # (256, 384)
    tensors = {"matrix": weight @ weight.T, "bias": weight @ mean, "constant": np.array([mean @ mean])}
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    save_file(tensors, HERE / "choice.safetensors", metadata={"heads": sha256_of(HERE / "heads.safetensors")})

    vectors, sentences = read(features, "val")
    pairs = np.triu_indices(len(vectors), 1)
    truth = (sentences @ sentences.T)[pairs]
    predicted = vectors @ weight + mean
    for name, similarity in (("stored vectors", vectors @ vectors.T), ("learned", predicted @ predicted.T)):
        print(f"{name}: correlation {np.corrcoef(similarity[pairs], truth)[0, 1]:.3f} with the captions' similarity")


if __name__ == "__main__":
    main()
