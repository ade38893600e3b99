"""Embeds a collection's images with another model, and keeps the vectors in it: ``warmer collections reembed``.

Contents go through this process as they are stored, since embedding must equal indexing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from warmer._passes import GroupResult, ImageFailure, Passes
from warmer.client import Client
from warmer.errors import Aborted, DataLoss, NotFound, WarmerError
from warmer.types import Image, ImageEmbedding, ImageVector

GROUP_ITEMS = 16
IN_FLIGHT = 3  # one is fetched and one is put while one is embedded
GROUP_TIMEOUT_S = 1800.0
"""Deadline of one call, in seconds: a large model on a CPU takes a while for a group, and so does taking over."""


@dataclass(frozen=True, slots=True)
class ReembedReport:
    """What came of re-embedding.

    Attributes:
        collection: the collection.
        model: identity of the model that made the vectors.
        stored: number of images that have a new vector.
        failures: the images that could not be embedded.
        missing: images without a vector of the model, those that failed included.
        adopted: whether the collection is searched with the vectors of the model now.
        server_model: the model that the collection's own embedder runs.
        seconds: wall-clock time.
    """

    collection: str
    model: str
    stored: int
    failures: tuple[ImageFailure, ...]
    missing: int
    adopted: bool
    server_model: str
    seconds: float


def reembed(
    client: Client, collection: str, *, embedder: Client, progress: Callable[[int, int], None] | None = None
) -> ReembedReport:
    """Makes the vectors of ``embedder``'s model for all images that lack one, and keeps them in the collection.

    Args:
        client: where the collection is.
        collection: its id.
        embedder: where the model is; may be the same client.
        progress: is told how many images are done, of how many.

    Raises:
        NotFound: no such collection.
        Aborted: ``MODEL_CHANGED``: the embedder was restarted with another model meanwhile.
    """
    began = time.monotonic()
    model = embedder.model().id
    begin = client.collections.get(collection)
    have = next((kept.image_count for kept in begin.vector_sets if kept.model == model), 0)
    total = 0 if begin.model == model else begin.image_count - have
    work = _Work(client, collection, embedder, model)
    passes = Passes(
        missing=lambda: client.collections.images(collection, without_vectors_of=model),
        work=work,
        group_items=GROUP_ITEMS,
        in_flight=IN_FLIGHT,
        progress=lambda done: progress(done, max(done, total)) if progress else None,
    )
    passes.run()
    state = client.collections.put_vectors(collection, model)
    server_model = client.model().id
    return ReembedReport(
        collection,
        model,
        passes.stored,
        passes.failed,
        state.missing_count,
        state.adopted,
        server_model,
        time.monotonic() - began,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    client: Client
    collection: str
    embedder: Client
    model: str

    def __call__(self, images: list[Image]) -> GroupResult:
        failures: dict[Image, WarmerError] = {}
        contents: dict[str, bytes] = {}  # by SHA-256: images with the same content are embedded once
        for image in images:
            if image.sha256 in contents:
                continue
            try:
                content = self.client.collections.image_bytes(self.collection, image.id)
            except NotFound:
                continue  # removed since it was listed
            except DataLoss as error:
                failures[image] = error
                continue
            if hashlib.sha256(content).hexdigest() == image.sha256:  # else it was replaced since it was listed
                contents[image.sha256] = content
        embeddings = dict(zip(contents, self._embed(list(contents.values())), strict=True))
        vectors = []
        for image in images:
            embedding = embeddings.get(image.sha256)
            if embedding is None:
                continue
            if embedding.error is not None:
                failures[image] = embedding.error
            elif embedding.vector is not None:
                vectors.append(ImageVector(image.id, image.sha256, embedding.vector))
        stored = (
            self.client.collections.put_vectors(self.collection, self.model, vectors).stored_count if vectors else 0
        )
        return GroupResult(stored, failures)

    def _embed(self, contents: Sequence[bytes]) -> list[ImageEmbedding]:
        embeddings = self.embedder.embed_images(contents)
        if any(embedding.model != self.model for embedding in embeddings):
            raise Aborted(
                f"the embedder no longer runs {self.model}",
                reason="MODEL_CHANGED",
                hint="Run it again with the embedder that you want; what was made is kept.",
            )
        return embeddings
