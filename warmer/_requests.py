"""The embedder's request messages from plain arguments, for the sync and the async client, which so cannot drift apart.

What the wire cannot carry (a negative count, a slash in an id) is an :class:`~warmer.errors.InvalidArgument` here; all
other judgement is the server's.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from warmer.channel import MAX_MESSAGE_BYTES
from warmer.errors import InvalidArgument
from warmer.names import check_image_id, collection_name, image_name
from warmer.types import Preference, Search, Term, Truncation, TruncationWarning
from warmer.v1 import common_pb2, embedder_pb2

ImageInput = bytes | str | os.PathLike[str]
"""The bytes of an image file, or its path."""

PAGE_SIZE = 1000
EMBED_TEXTS = 256
EMBED_IMAGES = 64
ENVELOPE_BYTES = 65_536  # what a message needs beside the image: ids, source, tags

UINT32 = range(2**32)
UINT64 = range(2**64)
Built = TypeVar("Built")


def new_request_id() -> str:
    """An id that makes a call safe to repeat."""
    return str(uuid.uuid4())


def ids(value: str | Iterable[str]) -> tuple[str, ...]:
    """Image ids, checked; a lone string is one id, not its letters."""
    return tuple(check_image_id(id) for id in ([value] if isinstance(value, str) else value))


def read_image(image: ImageInput) -> bytes:
    """The bytes of an image given as bytes or path.

    Raises InvalidArgument (``UNREADABLE_FILE``, ``IMAGE_TOO_LARGE``).
    """
    if isinstance(image, bytes):
        content = image
    else:
        try:
            size = Path(image).stat().st_size
            content = Path(image).read_bytes() if size <= MAX_MESSAGE_BYTES else b""
        except OSError as error:
            raise InvalidArgument(
                f"cannot read {os.fspath(image)!r}: {error.strerror or error}",
                reason="UNREADABLE_FILE",
                field="image",
                hint="Check that the file exists and that you may read it.",
            ) from error
        if size > MAX_MESSAGE_BYTES:
            raise _too_large(size)
    if len(content) > MAX_MESSAGE_BYTES - ENVELOPE_BYTES:
        raise _too_large(len(content))
    return content


def create_collection(id: str, description: str, expected_dimensions: int) -> embedder_pb2.CreateCollectionRequest:
    """Request of CreateCollection."""
    collection_name(id)
    return built(
        lambda: embedder_pb2.CreateCollectionRequest(
            collection_id=id,
            collection=embedder_pb2.Collection(description=description),
            expected_dimensions=within(expected_dimensions, UINT32, "expected_dimensions"),
        )
    )


def remove_images(collection: str, image_ids: str | Iterable[str]) -> embedder_pb2.RemoveImagesRequest:
    """Request of RemoveImages."""
    return embedder_pb2.RemoveImagesRequest(collection=collection_name(collection), image_ids=ids(image_ids))


def image_content(collection: str, image_id: str, max_edge: int) -> embedder_pb2.GetImageContentRequest:
    """Request of GetImageContent."""
    return embedder_pb2.GetImageContentRequest(
        name=image_name(collection, image_id), max_edge=within(max_edge, UINT32, "max_edge")
    )


def search(
    collection: str,
    *,
    text: str | None,
    image: bytes | None,
    image_id: str | None,
    terms: Sequence[Term],
    top_k: int,
    min_similarity: float | None,
    excluded: str | Iterable[str],
    preferences: Sequence[Preference],
    min_revision: int,
    rerank: int,
) -> Search:
    """The whole search that the arguments of ``client.search`` describe."""
    all_terms = [
        *([Term(text=text)] if text is not None else []),
        *([Term(image=image)] if image is not None else []),
        *([Term(image_id=check_image_id(image_id))] if image_id is not None else []),
        *terms,
    ]
    if not all_terms:
        raise InvalidArgument(
            "the search has no query",
            reason="EMPTY_QUERY",
            field="terms",
            hint="Give text, image, image_id or terms.",
        )
    if top_k < 1:
        raise InvalidArgument(f"top_k is {top_k}", reason="BAD_TOP_K", field="top_k", hint="Ask for 1 to 10,000 hits.")
    return Search(
        collection=collection,
        terms=tuple(all_terms),
        preferences=tuple(preferences),
        excluded_image_ids=ids(excluded),
        min_similarity=min_similarity,
        min_revision=min_revision,
        top_k=top_k,
        rerank_count=rerank,
    )


def search_request(spec: Search) -> embedder_pb2.SearchRequest:
    """Request of Search."""
    _check_search(spec)
    return built(lambda: embedder_pb2.SearchRequest(search=spec.to_proto()))


def rank_request(
    spec: Search, image_ids: str | Iterable[str], apply_exclusions: bool
) -> embedder_pb2.RankImagesRequest:
    """Request of RankImages."""
    _check_search(spec)
    wanted = ids(image_ids)
    return built(
        lambda: embedder_pb2.RankImagesRequest(
            search=spec.to_proto(), image_ids=wanted, apply_exclusions=apply_exclusions
        )
    )


def text_batches(texts: Sequence[str]) -> Iterator[tuple[int, embedder_pb2.EmbedTextRequest]]:
    """Requests of EmbedText that together hold all texts, each with the index of its first."""
    for start in range(0, len(texts), EMBED_TEXTS):
        batch = texts[start : start + EMBED_TEXTS]
        yield start, _text_request(batch)


def _text_request(texts: Sequence[str]) -> embedder_pb2.EmbedTextRequest:
    return built(lambda: embedder_pb2.EmbedTextRequest(texts=texts))


def image_batches(images: Iterable[bytes]) -> Iterator[embedder_pb2.EmbedImagesRequest]:
    """Requests of EmbedImages that together hold all images, none above the message limit."""
    batch: list[bytes] = []
    size = 0
    for image in images:
        if batch and (len(batch) == EMBED_IMAGES or size + len(image) > MAX_MESSAGE_BYTES - ENVELOPE_BYTES):
            yield embedder_pb2.EmbedImagesRequest(images=batch)
            batch, size = [], 0
        batch.append(image)
        size += len(image)
    if batch:
        yield embedder_pb2.EmbedImagesRequest(images=batch)


def warn_truncated(truncations: Iterable[common_pb2.Truncation], start: int) -> None:
    """Warns of each text that was cut; ``start`` is the index of the batch's first text."""
    for truncation in map(Truncation.from_proto, truncations):
        warnings.warn(
            f"text {start + truncation.index} has {truncation.tokens} tokens; "
            f"the encoder read the first {truncation.max_tokens}",
            TruncationWarning,
            stacklevel=3,
        )


def built(build: Callable[[], Built]) -> Built:
    """The built message; what protobuf refuses (a lone surrogate, a number out of range) becomes InvalidArgument."""
    try:
        return build()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the request cannot be sent: {error}", reason="BAD_VALUE", hint="Check types and ranges of the arguments."
        ) from error


def _check_search(spec: Search) -> None:
    within(spec.top_k, UINT32, "top_k", "BAD_TOP_K")
    within(spec.min_revision, UINT64, "min_revision")
    within(spec.rerank_count, UINT32, "rerank", "BAD_RERANK_COUNT")


def within(value: int, allowed: Any, field: str, reason: str = "BAD_VALUE") -> int:
    """The value, if it is in the range; else InvalidArgument."""
    if value not in allowed:
        raise InvalidArgument(
            f"{field} is {value!r}", reason=reason, field=field, hint="Give a whole number that is not negative."
        )
    return value


def _too_large(size: int) -> InvalidArgument:
    limit = MAX_MESSAGE_BYTES - ENVELOPE_BYTES
    return InvalidArgument(
        f"the image has {size:,} bytes, a message holds at most {limit:,}",
        reason="IMAGE_TOO_LARGE",
        field="image",
        hint="Make the image smaller.",
    )
