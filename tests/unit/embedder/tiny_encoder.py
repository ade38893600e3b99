"""A small real encoder for tests: images and texts meet in a space of colours. Deterministic; no weights."""

import zlib
from collections.abc import Sequence

import numpy as np

from services.common.decoding import Resize
from services.embedder.encoders.base import TextEmbeddings

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 40, 160),
    "orange": (250, 140, 20),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "pink": (250, 150, 190),
    "brown": (120, 70, 30),
    "cyan": (40, 210, 220),
}
_PALETTE = np.array(list(COLOURS.values()), np.float32)
_GRID = 4


class TinyEncoder:
    """Image: share of pixels nearest to each of 12 colours, and a coarse 4 x 4 brightness pattern with little weight.
    Text: the colours that it names; other words go into the pattern's dimensions."""

    backend = "tiny"
    dimensions = len(COLOURS) + _GRID * _GRID
    max_tokens = 8
    resize = Resize("square", 32)

    def __init__(self, id: str = "tiny@1") -> None:
        self.id = id
        self.images_seen = 0
        self.texts_seen = 0

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        self.texts_seen += len(texts)
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        tokens = []
        for row, text in zip(vectors, texts, strict=True):
            words = text.lower().split()
            tokens.append(len(words) + 2)
            for word in words[: self.max_tokens - 2]:
                if word in COLOURS:
                    row[list(COLOURS).index(word)] += 1
                else:
                    row[len(COLOURS) + zlib.crc32(word.encode()) % _GRID**2] += 0.05
        return TextEmbeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), tokens)

    def embed_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        self.images_seen += len(pixels)
        rows = []
        for image in pixels:
            assert image.shape == (32, 32, 3) and image.dtype == np.uint8
            flat = image.reshape(-1, 3).astype(np.float32)
            nearest = ((flat[:, None] - _PALETTE) ** 2).sum(2).argmin(1)
            histogram = np.bincount(nearest, minlength=len(COLOURS)) / len(flat)
            pattern = image.mean(2).reshape(_GRID, 8, _GRID, 8).mean((1, 3)).ravel() / 255
            rows.append(np.concatenate([histogram, 0.1 * (pattern - pattern.mean())]))
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class TurnedEncoder(TinyEncoder):
    """The tiny encoder in a space of other axes and length: what it makes never fits the tiny encoder's."""

    dimensions = TinyEncoder.dimensions + 4

    def __init__(self, id: str = "turned@1") -> None:
        super().__init__(id)
        self._tiny = TinyEncoder()
        axes = np.random.default_rng(0).normal(size=(self.dimensions, TinyEncoder.dimensions))
        self._axes = np.linalg.qr(axes)[0].T.astype(np.float32)

    def embed_texts(self, texts):
        made = self._tiny.embed_texts(texts)
        return TextEmbeddings(made.vectors @ self._axes, made.tokens)

    def embed_images(self, pixels):
        return self._tiny.embed_images(pixels) @ self._axes
