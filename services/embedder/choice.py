"""How alike two images are in the eyes of somebody who chooses: learned, and computed from the stored vectors.

The retrieval embedding says which words fit an image; people who are asked which image is closest to what they have in
mind judge by what is to be seen and done in it. The similarity here is that of the sentence vectors which a linear map
predicts for both images, (B v + m) . (B w + m). Because it is linear in the image that is scored, it needs no second
stored vector: a displayed image d becomes a probe A v_d + b, whose inner product with every stored vector, plus a
number of its own, is the similarity. Trained by models/compact/embedder/choice.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from services.common.weights import sha256_of
from warmer.errors import DataLoss

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ChoiceSimilarity:
    """s(d, t) = v_d . A v_t + b . (v_d + v_t) + c, with A (D, D) symmetric, b (D,) and a number c."""

    matrix: Floats
    bias: Floats
    constant: float

    def probes(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Of displayed images (P, D): probes (P, D) and offsets (P,), so that s(d, t) = probe_d . v_t + offset_d."""
        return vectors @ self.matrix + self.bias, vectors @ self.bias + np.float32(self.constant)

    @classmethod
    def load(cls, path: Path, heads: Path) -> ChoiceSimilarity:
        """Reads the file that training wrote. Raises DataLoss (MODEL_DAMAGED) when it was trained on other heads."""
        with safe_open(path, framework="np") as file:
            trained_on = (file.metadata() or {}).get("heads", "")
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in ("matrix", "bias", "constant")}
        if trained_on != sha256_of(heads):
            raise DataLoss(
                f"{path.name} was trained on other vectors than {heads.name} makes",
                reason="MODEL_DAMAGED",
                hint="install Warmer again, or run models/compact/embedder/choice.py",
            )
        return cls(tensors["matrix"], tensors["bias"], float(tensors["constant"].item()))
