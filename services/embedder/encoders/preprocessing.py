"""Image preprocessing as a checkpoint's own image processor does it, split in two: the decoding processes resize and
crop, the encoder rescales and normalises, on its own device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor

from services.common.checkpoints import Checkpoint, loading
from services.common.decode_worker import Resample
from services.common.decoding import Resize
from warmer.errors import FailedPrecondition

Values = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image: `resize`, then `(value * factor - mean) / deviation` for each of R, G, B.

    The result is that of the checkpoint's own image processor in PIL, up to float rounding. Only what Warmer's decoder
    does to every image comes before: photos are turned upright, transparency becomes white, and a JPEG of at least four
    times the wanted size is decoded at 1/2, 1/4 or 1/8.
    """

    resize: Resize
    mean: Values
    deviation: Values
    factor: float = 1 / 255

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Preprocessing:
        """As the image processor's configuration in the checkpoint says.

        Raises FailedPrecondition: MODEL_DAMAGED when there is none, WRONG_ARCHITECTURE when it asks for something else.
        """
        from transformers import AutoImageProcessor

        with loading(checkpoint):
            # The PIL variant, since the other needs torchvision, which is not installed.
            processor = AutoImageProcessor.from_pretrained(**checkpoint.arguments, backend="pil")
            resize = _resize(processor)
            rescales, normalises = processor.do_rescale, processor.do_normalize
            mean = processor.image_mean if normalises else (0.0, 0.0, 0.0)
            deviation = processor.image_std if normalises else (1.0, 1.0, 1.0)
            factor = processor.rescale_factor if rescales else 1.0
        if resize is None:
            raise FailedPrecondition(
                f"{checkpoint.place} wants its images prepared in a way that is not supported",
                reason="WRONG_ARCHITECTURE",
                hint="preprocessor_config.json may squash images to a square, or resize the shorter edge and cut a "
                "square out of the middle",
            )
        return cls(resize, _values(mean), _values(deviation), float(factor))

    def tensor(self, pixels: Sequence[np.ndarray], device: torch.device, dtype: torch.dtype) -> Tensor:
        """N images (H, W, 3) uint8 -> (N, 3, H, W) of `dtype` on `device`; bytes go there, a quarter of floats."""
        images = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)
        mean, deviation = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.deviation))
        return ((images.float() * self.factor - mean) / deviation).to(dtype)


def _values(values: Any) -> Values:
    """Three numbers; one number stands for all of them."""
    red, green, blue = values if isinstance(values, Sequence) else (values,) * 3
    return float(red), float(green), float(blue)


def _resize(processor: Any) -> Resize | None:
    """The resize that an image processor of transformers does; None for one that the decoder does not know."""
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    name = Resampling(processor.resample).name.lower()
    resample: Resample | None = next((known for known in get_args(Resample) if known == name), None)
    if resample is None or not processor.do_resize or processor.do_pad or not size:
        return None
    if size.height and size.height == size.width and (crop is None or crop.height == crop.width == size.height):
        return Resize("square", size.height, resample)
    if not size.shortest_edge or size.longest_edge or crop is None or crop.height != crop.width:
        return None
    if crop.height > size.shortest_edge:  # would be padded with black
        return None
    return Resize("crop", crop.height, resample, size.shortest_edge)
