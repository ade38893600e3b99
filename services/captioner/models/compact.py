"""The compact captioner at run time: the shared image backbone in ONNX Runtime and the small decoder in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from services.captioner.models.base import CaptionText
from services.captioner.models.compact_decoder import CaptionDecoder, DecoderConfig, beam_search
from services.common.settings import Settings
from services.common.threads import limit_torch
from services.common.vision.backbone import Backbone
from services.common.weights import compact_file, sha256_of

SIDE = 7  # of the grid of features


class CompactCaptioner:
    """One sentence for each image, by beam search; a `CaptionModel`. Not thread-safe."""

    backend = "compact"
    prompt_version = ""  # it was trained for one task and takes no prompt
    precision = "fp32"
    device = "cpu"

    def __init__(
        self, backbone: Backbone, decoder: CaptionDecoder, vocabulary: Sequence[str], model_id: str, beams: int = 5
    ) -> None:
        self.id = model_id
        self.max_tokens = decoder.config.max_words
        self.resize = backbone.resize
        self._backbone = backbone
        self._decoder = decoder.eval()
        self._vocabulary = vocabulary
        self._beams = beams

    @classmethod
    def load(cls, settings: Settings) -> CompactCaptioner:
        """The captioner that ships with Warmer. Raises FailedPrecondition (MODEL_NOT_INSTALLED) or DataLoss."""
        weights, sizes = compact_file("captioner/decoder.safetensors"), compact_file("captioner/decoder.json")
        limit_torch(settings.threads)
        stored = json.loads(sizes.read_text())
        decoder = CaptionDecoder(DecoderConfig(**stored["config"]))
        decoder.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        backbone = Backbone(settings.models_dir, settings.threads)
        # Other beams write other captions: the cache must know them apart.
        model_id = f"compact-captioner-{sha256_of(weights, sizes)[:12]}-beam{settings.caption_beams}"
        return cls(backbone, decoder, stored["vocabulary"], model_id, settings.caption_beams)

    def caption(
        self,
        pixels: Sequence[np.ndarray],
        on_text: Callable[[int, str], None],
        should_stop: Callable[[int], bool] | None = None,  # noqa: ARG002 - a batch takes a fraction of a second
    ) -> list[CaptionText]:
        """Describes N images, each (224, 224, 3) uint8 RGB. Beam search knows its words only at the end, so `on_text`
        gets each caption whole."""
        sentences = beam_search(self._decoder, self._seen(pixels), beams=self._beams)
        captions = [CaptionText(" ".join(self._vocabulary[w] for w in s), len(s)) for s in sentences]
        for index, caption in enumerate(captions):
            on_text(index, caption.text)
        return captions

    def _seen(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """The features of N images, (N, 49, 1280): the mean of each image's and of its mirror image's, turned back.

        The two views differ in what they are unsure of: their mean was worth .02 of CIDEr, and costs a second pass.
        """
        views = self._backbone.grids([*pixels, *(image[:, ::-1] for image in pixels)])
        straight, mirrored = np.split(views.reshape(2 * len(pixels), SIDE, SIDE, -1), 2)
        mean = (straight + mirrored[:, :, ::-1]) / 2  # (N, 7, 7, 1280)
        return torch.from_numpy(mean.reshape(len(pixels), SIDE * SIDE, -1))
