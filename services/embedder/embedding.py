"""The encoder behind its queues: texts and images are embedded in batches, on threads, and never wait for each other.

A search embeds its text while an indexing run keeps the image queue full; images that a person searches with go before
those that are indexed. Pairs to re-rank have a queue of their own, which no other search waits behind.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np

from services.common.batcher import Batcher
from services.common.decoding import Decoded, Decoder
from services.common.settings import Settings
from services.embedder.encoders.base import Encoder
from services.embedder.encoders.matching import matcher_of
from warmer.errors import Internal, ResourceExhausted, WarmerError

In = TypeVar("In")
Out = TypeVar("Out")

_CACHED_TEXTS = 2048
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class TextVector:
    """The unit vector (D,) of a text, and the number of its tokens before truncation."""

    vector: np.ndarray
    tokens: int


class Embedding:
    """Embeds texts and images with one encoder. Belongs to one event loop."""

    def __init__(self, encoder: Encoder, decoder: Decoder, settings: Settings) -> None:
        self.encoder = encoder
        self._decoder = decoder
        self._cache: OrderedDict[str, TextVector] = OrderedDict()
        self._matcher = matcher_of(encoder)
        # Texts do not wait for company: a batch forms by itself while the one before it runs.
        self._texts = Batcher(
            self._run_texts,
            name="text-encoder",
            max_batch=settings.embed_text_batch,
            max_wait_s=0.0,
            max_queue=settings.embed_queue,
        )
        self._images = Batcher(
            self._run_images,
            name="image-encoder",
            max_batch=settings.embed_image_batch,
            max_wait_s=settings.embed_wait_s,
            max_queue=settings.embed_queue,
        )
        self._pairs = Batcher(
            self._run_pairs,
            name="matching-head",
            max_batch=settings.rerank_batch,
            max_wait_s=0.0,
            max_queue=settings.embed_queue,
        )

    @property
    def can_match(self) -> bool:
        """Whether the model has a matching head."""
        return self._matcher is not None

    async def warm(self) -> None:
        """Embeds one text and one image, so that the first search does not pay for what runtimes do once."""
        size = self.encoder.resize.size
        await asyncio.gather(self.text("warm"), self.pixels([np.zeros((size, size, 3), np.uint8)]))

    async def close(self) -> None:
        """Fails what waits and ends the threads."""
        await self._texts.close(drain=False)
        await self._images.close(drain=False)
        await self._pairs.close(drain=False)

    async def text(self, text: str, *, urgent: bool = True) -> TextVector:
        """Embeds a text. Raises ResourceExhausted (QUEUE_FULL) and Internal (MODEL_FAILED)."""
        known = self._cache.get(text)
        if known is not None:
            self._cache.move_to_end(text)
            return known
        result = await self._texts.submit(text, urgent=urgent)
        self._cache[text] = result
        if len(self._cache) > _CACHED_TEXTS:
            self._cache.popitem(last=False)
        return result

    async def texts(self, texts: Sequence[str]) -> list[TextVector]:
        """Embeds many texts, in portions, so that searches get in between. Raises as `text`."""
        results: list[TextVector] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            portion = texts[start : start + _TEXTS_AT_ONCE]
            results += await asyncio.gather(*(self.text(text, urgent=False) for text in portion))
        return results

    async def image(self, content: bytes) -> np.ndarray:
        """Decodes and embeds an image that somebody waits for: (D,). Raises as `text`, and the Decoder's errors."""
        decoded = await self._decoder.decode(content, self.encoder.resize)
        return await self._images.submit(decoded.pixels, urgent=True)

    async def images(self, contents: Sequence[bytes]) -> list[np.ndarray | WarmerError]:
        """Decodes and embeds images that nobody waits for in particular: (D,) or an error each."""
        decoded = await self.decode(contents)
        vectors = iter(await self.pixels([image.pixels for image in decoded if isinstance(image, Decoded)]))
        return [next(vectors) if isinstance(image, Decoded) else image for image in decoded]

    async def decode(self, contents: Sequence[bytes]) -> list[Decoded | WarmerError]:
        """Decodes image files as the encoder wants them; one result or error each."""
        return await self._decoder.decode_many(contents, self.encoder.resize)

    async def pixels(self, pixels: Sequence[np.ndarray]) -> list[np.ndarray | WarmerError]:
        """Embeds decoded images, waiting while the queue is full: (D,) or an error each."""
        return await _patiently(self._images, pixels)

    async def matches(self, text: str, pixels: Sequence[np.ndarray]) -> list[float | WarmerError]:
        """How well decoded images match a text, waiting while the queue is full: a logit or an error each. Only where
        `can_match`."""
        return await _patiently(self._pairs, [(text, image) for image in pixels])

    def _run_texts(self, texts: list[str]) -> list[TextVector | WarmerError]:
        embedded = self.encoder.embed_texts(texts)
        vectors = self._checked(embedded.vectors)
        return [
            vector if isinstance(vector, WarmerError) else TextVector(vector, tokens)
            for vector, tokens in zip(vectors, embedded.tokens, strict=True)
        ]

    def _run_images(self, pixels: list[np.ndarray]) -> list[np.ndarray | WarmerError]:
        return self._checked(self.encoder.embed_images(pixels))

    def _run_pairs(self, pairs: list[tuple[str, np.ndarray]]) -> list[float | WarmerError]:
        """Pairs of several searches may be in one batch; those of one text run together."""
        if self._matcher is None:
            raise ValueError(f"{self.encoder.id} has no matching head")
        logits: list[float] = []
        for text, group in groupby(pairs, key=lambda pair: pair[0]):
            logits += self._matcher.match(text, [pixels for _, pixels in group]).tolist()
        return [
            logit if math.isfinite(logit) else Internal(f"{self.encoder.id} gave no number", reason="MODEL_FAILED")
            for logit in logits
        ]

    def _checked(self, vectors: np.ndarray) -> list[np.ndarray | WarmerError]:
        """The rows of (N, D), or an error for those that are no unit vectors: they would spoil every search after."""
        if vectors.ndim != 2 or vectors.shape[1] != self.encoder.dimensions:
            raise ValueError(f"{self.encoder.id} gave vectors of shape {vectors.shape}")
        good = np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3  # NaN compares as False
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        return [
            row.copy() if fine else Internal(f"{self.encoder.id} gave no unit vector", reason="MODEL_FAILED")
            for row, fine in zip(rows, good.tolist(), strict=True)
        ]


async def _patiently(batcher: Batcher[In, Out], items: Sequence[In]) -> list[Out | WarmerError]:
    """The result of each item, or its error; a full queue is waited for."""

    async def one(item: In) -> Out | WarmerError:
        while True:
            try:
                return await batcher.submit(item)
            except ResourceExhausted as error:
                await asyncio.sleep(error.retry_after_s or 0.1)
            except WarmerError as error:
                return error

    return list(await asyncio.gather(*map(one, items)))
