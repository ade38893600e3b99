"""The compact image backbone that the captioner reads: EfficientNet-Lite2's last feature grid, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.common.decoding import Resize
from services.common.vision import onnx_build
from services.common.weights import EFFICIENTNET_LITE2

if TYPE_CHECKING:
    from torch import nn

# Everything is squashed to a square, as the photos were that the heads were trained on.
RESIZE = Resize("square", 224)
_GRAPH_VERSION = "1"


class Backbone:
    """Computes feature grids. Thread-safe."""

    def __init__(self, models_dir: Path, threads: int) -> None:
        """Builds the ONNX file if this is the first time, and opens it.

        Raises FailedPrecondition (MODEL_NOT_INSTALLED) or DataLoss (MODEL_DAMAGED).
        """
        EFFICIENTNET_LITE2.find()
        key = EFFICIENTNET_LITE2.sha256[:12] + _GRAPH_VERSION
        file = onnx_build.built(models_dir, "efficientnet-lite2-grid", key, _network)
        self._session = onnx_build.open_session(file, threads)

    @property
    def resize(self) -> Resize:
        """How images are resized before they are handed over."""
        return RESIZE

    def grids(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """N images, each (224, 224, 3) uint8 RGB -> (N, 49, 1280) float32."""
        return onnx_build.run_images(self._session, pixels)


def _network() -> tuple[nn.Module, onnx_build.Example, list[str]]:
    import torch

    from services.common.vision.efficientnet import Grid, load_efficientnet

    return Grid(load_efficientnet("lite2")), {"pixels": torch.zeros(2, 224, 224, 3, dtype=torch.uint8)}, ["grid"]
