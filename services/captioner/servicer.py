"""The captioner's gRPC side: decodes images, hands them to the model in batches, and answers each item as it is done.

Items of one call, and of calls that come close together, share batches. A damaged image costs only itself.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.captioner.models import CaptionModel, CaptionText
from services.common.batcher import Batcher
from services.common.decoding import Decoder
from services.common.failures import to_warmer_error
from services.common.settings import Settings
from warmer.errors import InvalidArgument, Unavailable, WarmerError, to_status
from warmer.v1 import captioner_pb2 as pb
from warmer.v1 import captioner_pb2_grpc, common_pb2

Context = Any  # the grpc.aio.ServicerContext; nothing here uses it

MAX_ITEMS = 64
MAX_KEY_BYTES = 1024


@dataclass(frozen=True)
class _Picture:
    """A decoded image on its way through the batcher."""

    pixels: np.ndarray
    on_text: Callable[[str], None]
    gone: threading.Event = field(default_factory=threading.Event)
    """Nobody waits for its caption any more."""


class CaptionerServicer(captioner_pb2_grpc.CaptionerServiceServicer):
    """Captions images with the model that `attach` gave it."""

    def __init__(self, settings: Settings, decoder: Decoder) -> None:
        self._settings = settings
        self._decoder = decoder
        self._model: CaptionModel | None = None
        self._batcher: Batcher[_Picture, CaptionText] | None = None

    def attach(self, model: CaptionModel) -> None:
        """From now on `model` is asked."""
        self._model = model
        self._batcher = Batcher(
            self._run,
            name="captioner",
            max_batch=self._settings.caption_batch,
            max_wait_s=self._settings.caption_wait_s,
            max_queue=self._settings.caption_queue,
        )

    async def close(self) -> None:
        """Fails what waits, lets the worker thread end, and closes the model's connections, if it has any."""
        if self._batcher is not None:
            await self._batcher.close(drain=False)
        close_model = getattr(self._model, "close", None)
        if close_model is not None:
            await asyncio.to_thread(close_model)

    async def GetModel(self, _request: common_pb2.GetModelRequest, _context: Context) -> common_pb2.Model:
        """The captioning model that this server runs."""
        model = self._loaded()
        return common_pb2.Model(
            id=model.id,
            backend=model.backend,
            prompt_version=model.prompt_version,
            max_tokens=model.max_tokens,
            precision=getattr(model, "precision", ""),
            device=getattr(model, "device", ""),
        )

    async def Caption(self, request: pb.CaptionRequest, _context: Context) -> AsyncIterator[pb.CaptionResponse]:
        """See the proto. Raises InvalidArgument (NO_ITEMS, TOO_MANY, BAD_KEY or DUPLICATE_KEY).

        What is wrong with one image (or a full queue) is the status of its caption; the others go on.
        """
        check_items(request.items)
        self._loaded()
        answers: asyncio.Queue[pb.CaptionResponse] = asyncio.Queue()
        tasks = [asyncio.create_task(self._answer(item, answers)) for item in request.items]
        left = len(tasks)
        try:
            while left:
                answer = await answers.get()
                left -= answer.HasField("caption")
                yield answer
        finally:
            for task in tasks:  # the caller may have gone: what still waits leaves the queue
                task.cancel()

    async def _answer(self, item: pb.CaptionItem, answers: "asyncio.Queue[pb.CaptionResponse]") -> None:
        """Puts the deltas and then the one caption of `item` into `answers`."""
        model = self._loaded()
        loop = asyncio.get_running_loop()
        caption = pb.Caption(key=item.key, model=model.id, prompt_version=model.prompt_version)

        def on_text(text: str) -> None:  # called on the worker thread
            delta = pb.CaptionResponse(text_delta=pb.CaptionDelta(key=item.key, text=text))
            loop.call_soon_threadsafe(answers.put_nowait, delta)

        try:
            written = await self._caption(item.image, on_text)
            caption.text, caption.tokens = written.text, written.tokens
            caption.status.SetInParent()  # OK
        except Exception as error:  # every item is answered, whatever happened; unexpected errors are logged in there
            caption.status.CopyFrom(to_status(to_warmer_error(error)))
        await answers.put(pb.CaptionResponse(caption=caption))

    async def _caption(self, image: bytes, on_text: Callable[[str], None]) -> CaptionText:
        if self._batcher is None:
            raise _not_loaded()
        decoded = await self._decoder.decode(image, self._loaded().resize)
        picture = _Picture(decoded.pixels, on_text)
        try:
            return await self._batcher.submit(picture)
        finally:
            picture.gone.set()  # where the caller has gone, a model that writes it now can stop

    def _run(self, pictures: list[_Picture]) -> Sequence[CaptionText | WarmerError]:
        """Runs on the worker thread."""
        return self._loaded().caption(
            [picture.pixels for picture in pictures],
            lambda index, text: pictures[index].on_text(text),
            lambda index: pictures[index].gone.is_set(),
        )

    def _loaded(self) -> CaptionModel:
        if self._model is None:
            raise _not_loaded()
        return self._model


def check_items(items: Sequence[pb.CaptionItem]) -> None:
    """Raises InvalidArgument (NO_ITEMS, TOO_MANY, BAD_KEY or DUPLICATE_KEY) for items that cannot be told apart."""
    if not items:
        raise _bad("NO_ITEMS", "the request has no images", "items", f"send 1 to {MAX_ITEMS}")
    if len(items) > MAX_ITEMS:
        raise _bad("TOO_MANY", f"the request has {len(items)} images", "items", f"send at most {MAX_ITEMS}")
    seen: dict[str, int] = {}
    for index, item in enumerate(items):
        field = f"items[{index}].key"
        size = len(item.key.encode("utf-8"))
        if not 0 < size <= MAX_KEY_BYTES:
            hint = f"use 1 to {MAX_KEY_BYTES:,} bytes, for example the image id"
            raise _bad("BAD_KEY", f"the key has {size:,} bytes of UTF-8", field, hint)
        if item.key in seen:
            first = seen[item.key]
            raise _bad("DUPLICATE_KEY", f"items {first} and {index} have the same key", field, "give each its own key")
        seen[item.key] = index


def _bad(reason: str, message: str, field: str, hint: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, field=field, hint=hint)


def _not_loaded() -> Unavailable:
    return Unavailable("the captioning model is not loaded yet", reason="WARMING_UP", hint="try again in a few seconds")
