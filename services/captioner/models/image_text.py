"""LLaVA-NeXT and every other image-text-to-text checkpoint that transformers loads, asked by its own chat template.

The processor makes tokens and pixels of a batch: how many tokens an image takes depends on its size (LLaVA-NeXT cuts
it into tiles), so that is done for every batch; the template's text is rendered once. Greedy; prompts are padded on the
left, so that all rows go on writing at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import structlog
import torch
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    StoppingCriteriaList,
)

from services.captioner.models.base import EMPTY_CAPTION, CaptionText
from services.captioner.models.cleaning import CaptionStream, clean
from services.captioner.prompts import Prompt, load_prompt
from services.common.checkpoints import Checkpoint, device_of, dtype_of, find, load, loading, resolved
from services.common.decoding import Resize
from services.common.generation import BatchWatch, Generated, end_ids, pad_id
from services.common.settings import Settings
from services.common.threads import limit_torch
from warmer.errors import FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, WarmerError

_log = structlog.get_logger(__name__)

# Longer edge, in pixels, of the largest images that the model is handed. LLaVA-NeXT reads up to 2 x 2 tiles of 336 px:
# more pixels would tell it nothing. A photo of 672 x 504 px is 2,300 tokens to it, one of 384 x 288 px is 1,400.
EDGE = 672


@dataclass(frozen=True)
class _Job:
    """One image, where the pieces of its caption go, and whether somebody still waits for it."""

    image: Image.Image
    stream: CaptionStream
    should_stop: Callable[[], bool]


class ImageTextCaptioner:
    """A `CaptionModel`: one sentence for each image, streamed. Not thread-safe."""

    backend = "transformers"

    def __init__(
        self,
        model: Any,
        processor: Any,
        text: str,
        *,
        id: str,
        prompt_version: str,
        max_new_tokens: int,
        precision: str,
        edge: int,
    ) -> None:
        """`text` is the prompt as `render` makes it; images are handed over with `edge` pixels at most."""
        self.id = id
        self.prompt_version = prompt_version
        self.max_tokens = max_new_tokens
        self.resize = Resize("max_edge", edge)
        self.precision = precision
        self.device = str(model.device)
        self._model = model
        self._processor = processor
        self._dtype = dtype_of(precision, model.device)
        tokenizer = processor.tokenizer
        self._ends = end_ids(model, tokenizer)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._text = text
        # A template that writes the beginning of the sequence must not get a second one from the tokenizer.
        bos = tokenizer.bos_token
        self._add_special_tokens = not (bos and text.startswith(bos))

    @classmethod
    def load(cls, settings: Settings) -> ImageTextCaptioner:
        """The checkpoint that WARMER_CAPTIONER_MODEL names.

        Raises FailedPrecondition: PROMPT_NOT_FOUND, BAD_PROMPT, NO_CHAT_TEMPLATE, PACKAGE_NOT_INSTALLED, and those of
        `checkpoints.find` and `checkpoints.load`. What costs little is checked before the weights are read.
        """
        prompt = load_prompt(settings.captioner_prompt)
        checkpoint = find(settings.captioner_model, settings, "WARMER_CAPTIONER_MODEL")
        precision = resolved(settings.captioner_precision, device_of(settings))
        processor = load_processor(checkpoint)
        text = render(processor, prompt, checkpoint.place)
        limit_torch(settings.threads)
        return cls(
            load(AutoModelForImageTextToText, checkpoint, precision, settings),
            processor,
            text,
            # A quantised model writes other captions, and another limit cuts them elsewhere: caches must know.
            id=f"{checkpoint.id}-{precision}-{settings.captioner_max_new_tokens}",
            prompt_version=prompt.version,
            max_new_tokens=settings.captioner_max_new_tokens,
            precision=precision,
            edge=max(EDGE, settings.caption_max_edge),
        )

    def caption(
        self,
        pixels: Sequence[np.ndarray],
        on_text: Callable[[int, str], None],
        should_stop: Callable[[int], bool] | None = None,
    ) -> list[CaptionText | WarmerError]:
        """Describes N images, each (H, W, 3) uint8 RGB; see `CaptionModel.caption`.

        The error of one image is InvalidArgument (IMAGE_NOT_READ), ResourceExhausted (OUT_OF_MEMORY) or Internal
        (MODEL_FAILED, EMPTY_CAPTION).
        """
        stop = should_stop or (lambda _index: False)
        jobs = [
            _Job(Image.fromarray(image), CaptionStream(partial(on_text, index)), partial(stop, index))
            for index, image in enumerate(pixels)
        ]
        return self._caption(jobs)

    def _caption(self, jobs: list[_Job]) -> list[CaptionText | WarmerError]:
        """Halves a batch that fails until the image that is to blame stands alone, or what is left fits into memory."""
        try:
            written = self._write(jobs, self._read([job.image for job in jobs]))
            return [_finish(job, text) for job, text in zip(jobs, written, strict=True)]
        except Exception as error:  # what libraries raise for an image that they cannot take is not documented
            problem = _problem(error)
            if len(jobs) == 1 and problem.reason == "MODEL_FAILED":
                _log.exception("captioning failed")
        # Outside of `except`: the traceback would keep the tensors of the whole batch alive.
        if len(jobs) == 1:
            return [problem]
        _log.warning("a batch failed and is halved", items=len(jobs), problem=str(problem))
        if problem.reason == "OUT_OF_MEMORY" and torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(jobs) // 2
        return self._caption(jobs[:middle]) + self._caption(jobs[middle:])

    def _read(self, images: list[Image.Image]) -> Any:
        """Tokens and pixels of a batch, on the device. Raises InvalidArgument (IMAGE_NOT_READ)."""
        try:
            inputs = self._processor(
                images=[[image] for image in images],
                text=[self._text] * len(images),
                padding=True,
                return_tensors="pt",
                add_special_tokens=self._add_special_tokens,
            )
        except Exception as error:  # each processor has exceptions of its own; what they say is passed on
            width, height = images[0].size
            raise InvalidArgument(
                f"the model's processor cannot read the image ({width} x {height} pixels): {error}",
                reason="IMAGE_NOT_READ",
                hint="send an image of a usual shape",
            ) from error
        return inputs.to(self._model.device, self._dtype)

    def _write(self, jobs: list[_Job], inputs: Any) -> list[Generated]:
        """What the model writes of each image; only new tokens are decoded."""
        for job in jobs:
            job.stream.restart()
        watch = BatchWatch(
            self._processor.tokenizer,
            inputs["input_ids"].shape[1],
            lambda index, text: jobs[index].stream.write(text),
            lambda index: jobs[index].should_stop(),
            one_line=True,
            end_ids=self._ends,
        )
        with torch.inference_mode():
            sequences = self._model.generate(
                **inputs,
                max_new_tokens=self.max_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=pad_id(self._processor.tokenizer, self._ends),
                stopping_criteria=StoppingCriteriaList([watch]),
            )
        return watch.results(sequences, self.max_tokens)


def load_processor(checkpoint: Checkpoint) -> Any:
    """Tokenizer and image processor of an image-text-to-text checkpoint.

    Raises FailedPrecondition (WRONG_ARCHITECTURE, PACKAGE_NOT_INSTALLED or MODEL_DAMAGED).
    """
    with loading(checkpoint):
        config = AutoConfig.from_pretrained(**checkpoint.arguments)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise FailedPrecondition(
            f"{checkpoint.place} is a {config.model_type} checkpoint, which does not write about images",
            reason="WRONG_ARCHITECTURE",
            hint="WARMER_CAPTIONER_MODEL must name an image-text-to-text model, such as llava-v1.6-mistral-7b-hf",
        )
    with loading(checkpoint):
        try:
            processor = AutoProcessor.from_pretrained(**checkpoint.arguments)
        except ImportError as error:
            raise FailedPrecondition(
                f"{checkpoint.place} needs a package that is not installed: {' '.join(str(error).split())[:300]}",
                reason="PACKAGE_NOT_INSTALLED",
                hint="install what the message names",
            ) from error
    if getattr(processor, "image_processor", None) is None:
        raise FailedPrecondition(
            f"{checkpoint.place} has no image processor",
            reason="MODEL_DAMAGED",
            hint="check that preprocessor_config.json and processor_config.json are among its files",
        )
    _complete(processor, config)
    return processor


def _complete(processor: Any, config: Any) -> None:
    """Older LLaVA checkpoints do not say how many tokens an image takes; their model's configuration does."""
    if getattr(processor, "patch_size", 0) is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1  # CLIP's class token


def render(processor: Any, prompt: Prompt, name: str) -> str:
    """The prompt in the processor's chat template, with one image before it and the model's turn opened behind it.

    Raises FailedPrecondition (NO_CHAT_TEMPLATE).
    """
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.text}]}
    try:
        if not processor.chat_template:
            raise ValueError("there is none")
        text: str = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        image = getattr(processor, "image_token", None)
        if image and image not in text:
            raise ValueError(f"it has no place for an image ({image})")
    except Exception as error:  # a template is a program, and can fail in any way
        raise FailedPrecondition(
            f"{name} has no chat template that takes an image: {error}",
            reason="NO_CHAT_TEMPLATE",
            hint="use an instruct or chat checkpoint with its chat_template.jinja",
        ) from error
    return text


def _finish(job: _Job, written: Generated) -> CaptionText | WarmerError:
    text = clean(written.text, finished=written.finished)
    if not text:
        return Internal("the model wrote no caption", reason=EMPTY_CAPTION)
    job.stream.end(text)
    return CaptionText(text, written.tokens)


def _problem(error: Exception) -> WarmerError:
    """The error of one image."""
    if isinstance(error, WarmerError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceExhausted(
            "the GPU's memory does not hold the caption of this image",
            reason="OUT_OF_MEMORY",
            hint="lower WARMER_CAPTION_BATCH, or choose a smaller precision (WARMER_PRESET=int8 or int4)",
        )
    return Internal("the captioning model failed", reason="MODEL_FAILED")
