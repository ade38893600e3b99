"""Captions by a vision model on an OpenAI-compatible server, such as vLLM with LLaVA-NeXT.

Images travel inside the request, as JPEG in data URLs: the server needs no way back to them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from services.captioner.models.base import EMPTY_CAPTION, CaptionText
from services.captioner.models.cleaning import CaptionStream, clean
from services.captioner.prompts import Prompt, load_prompt
from services.common.decoding import Resize
from services.common.openai_client import Answer, ModelServer, Question
from services.common.settings import Settings
from warmer.errors import Internal, WarmerError

# Longer edge, in pixels, of the images that are sent at least. It is all that LLaVA-NeXT reads; the server makes them
# as small as its model wants.
EDGE = 672
_QUALITY = 90  # of the JPEG; less begins to show


class OpenAICaptioner:
    """A `CaptionModel`: one sentence for each image, streamed. Not thread-safe.

    Its id is the name as served. Another model under the same name is taken for the same.
    """

    backend = "openai"
    precision = ""  # the server does not say
    device = ""

    def __init__(self, server: ModelServer, prompt: Prompt, max_new_tokens: int, edge: int = EDGE) -> None:
        self.id = f"openai:{server.model}"
        self.prompt_version = prompt.version
        self.max_tokens = max_new_tokens
        self.resize = Resize("max_edge", edge)
        self._server = server
        self._text = prompt.text

    @classmethod
    def load(cls, settings: Settings) -> OpenAICaptioner:
        """The model that WARMER_CAPTIONER_MODEL names on the server WARMER_CAPTIONER_OPENAI_URL.

        Raises FailedPrecondition (PROMPT_NOT_FOUND or BAD_PROMPT), and as `ModelServer.connect`.
        """
        prompt = load_prompt(settings.captioner_prompt)
        server = ModelServer.connect(settings, "captioner")
        return cls(server, prompt, settings.captioner_max_new_tokens, max(EDGE, settings.caption_max_edge))

    def caption(
        self,
        pixels: Sequence[np.ndarray],
        on_text: Callable[[int, str], None],
        should_stop: Callable[[int], bool] | None = None,
    ) -> list[CaptionText | WarmerError]:
        """Describes N images, each (H, W, 3) uint8 RGB; see `CaptionModel.caption`.

        They are sent at once, and the server batches them. The error of one image is Internal (EMPTY_CAPTION), or as
        `ModelServer.ask` says.
        """
        stop = should_stop or (lambda _index: False)
        streams = [CaptionStream(partial(on_text, index)) for index in range(len(pixels))]
        questions = [
            Question(self._messages(image), stream.write, partial(stop, index))
            for index, (image, stream) in enumerate(zip(pixels, streams, strict=True))
        ]
        answers = self._server.ask(questions, max_new_tokens=self.max_tokens)
        return [_finish(stream, answer) for stream, answer in zip(streams, answers, strict=True)]

    def close(self) -> None:
        """Closes the connections to the server."""
        self._server.close()

    def _messages(self, image: np.ndarray) -> list[dict[str, Any]]:
        picture = {"type": "image_url", "image_url": {"url": data_url(image)}}
        return [{"role": "user", "content": [picture, {"type": "text", "text": self._text}]}]


def data_url(image: np.ndarray) -> str:
    """An image, (H, W, 3) uint8 RGB, as a JPEG inside a URL (RFC 2397)."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _finish(stream: CaptionStream, answer: Answer | WarmerError) -> CaptionText | WarmerError:
    if isinstance(answer, WarmerError):
        return answer
    text = clean(answer.text, finished=answer.finished)
    if not text:
        return Internal("the model wrote no caption", reason=EMPTY_CAPTION)
    stream.end(text)
    return CaptionText(text, answer.tokens)
