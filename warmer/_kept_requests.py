"""Request messages for what a collection keeps beside its images, for both clients; see :mod:`warmer._requests`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from warmer._requests import built, ids
from warmer.channel import MAX_MESSAGE_BYTES
from warmer.errors import InvalidArgument
from warmer.names import check_image_id, collection_name
from warmer.types import ImageCaption, ImageVector, PutCaptionsResult, PutVectorsResult
from warmer.types._convert import FLOAT32_LE
from warmer.v1 import embedder_pb2

KEPT_AT_ONCE = 1000
_VECTOR_BYTES = MAX_MESSAGE_BYTES // 2


def list_images(
    collection: str, page_size: int, captions_of: str, prompt_version: str, vectors_of: str
) -> embedder_pb2.ListImagesRequest:
    """Request of ListImages for the first page."""
    name = collection_name(collection)
    return built(
        lambda: embedder_pb2.ListImagesRequest(
            collection=name,
            page_size=page_size,
            without_captions_of=captions_of,
            without_captions_prompt_version=prompt_version,
            without_vectors_of=vectors_of,
        )
    )


def page_of(request: embedder_pb2.ListImagesRequest, token: str) -> embedder_pb2.ListImagesRequest:
    """The same request for another page."""
    page = embedder_pb2.ListImagesRequest()
    page.CopyFrom(request)
    page.page_token = token
    return page


def put_captions(collection: str, captions: Iterable[ImageCaption]) -> Iterator[embedder_pb2.PutCaptionsRequest]:
    """Requests of PutCaptions that together hold all captions."""
    name = collection_name(collection)
    left = iter(captions)
    while batch := list(islice(left, KEPT_AT_ONCE)):
        yield built(partial(_captions_request, name, batch))


def get_captions(
    collection: str, image_ids: str | Iterable[str], model: str, prompt_version: str
) -> Iterator[embedder_pb2.GetCaptionsRequest]:
    """Requests of GetCaptions that together name all images."""
    name, wanted = collection_name(collection), ids(image_ids)
    for start in range(0, len(wanted), KEPT_AT_ONCE):
        batch = wanted[start : start + KEPT_AT_ONCE]
        yield built(
            partial(
                embedder_pb2.GetCaptionsRequest,
                collection=name,
                image_ids=batch,
                model=model,
                prompt_version=prompt_version,
            )
        )


def put_vectors(
    collection: str, model: str, vectors: Iterable[ImageVector]
) -> Iterator[embedder_pb2.PutVectorsRequest]:
    """Requests of PutVectors that together hold all vectors; one without any when there are none."""
    name = collection_name(collection)
    batch: list[embedder_pb2.ImageVector] = []
    size, dimensions, sent = 0, 0, False
    for vector in vectors:
        item = _vector(vector, dimensions)
        dimensions = len(item.vector) // FLOAT32_LE.itemsize
        if batch and (len(batch) == KEPT_AT_ONCE or size + len(item.vector) > _VECTOR_BYTES):
            yield _vectors_request(name, model, dimensions, batch)
            batch, size, sent = [], 0, True
        batch.append(item)
        size += len(item.vector)
    if batch or not sent:
        yield _vectors_request(name, model, dimensions, batch)


def put_captions_result(responses: Sequence[embedder_pb2.PutCaptionsResponse]) -> PutCaptionsResult:
    """What all responses together say."""
    return PutCaptionsResult(
        sum(response.stored_count for response in responses),
        tuple(id for response in responses for id in response.stale_image_ids),
    )


def put_vectors_result(responses: Sequence[embedder_pb2.PutVectorsResponse]) -> PutVectorsResult:
    """What all responses together say; how far the set is, says the last."""
    return PutVectorsResult(
        sum(response.stored_count for response in responses),
        tuple(id for response in responses for id in response.stale_image_ids),
        responses[-1].missing_count,
        responses[-1].adopted,
    )


def vector_bytes(vector: np.ndarray[Any, Any]) -> bytes:
    """Little-endian float32 bytes of a vector (D,). Raises InvalidArgument (``BAD_VECTOR``) for another shape."""
    array = np.asarray(vector)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        raise InvalidArgument(
            f"a vector has the shape {array.shape} and type {array.dtype}",
            reason="BAD_VECTOR",
            field="vector",
            hint="Give one row of floating-point numbers.",
        )
    return array.astype(FLOAT32_LE).tobytes()


def _captions_request(name: str, batch: Iterable[ImageCaption]) -> embedder_pb2.PutCaptionsRequest:
    return embedder_pb2.PutCaptionsRequest(collection=name, captions=map(_caption, batch))


def _caption(caption: ImageCaption) -> embedder_pb2.ImageCaption:
    return embedder_pb2.ImageCaption(
        image_id=check_image_id(caption.image_id),
        sha256=caption.sha256,
        text=caption.text,
        model=caption.model,
        prompt_version=caption.prompt_version,
        tokens=caption.tokens,
    )


def _vector(vector: ImageVector, dimensions: int) -> embedder_pb2.ImageVector:
    data = vector_bytes(vector.vector)
    length = len(data) // FLOAT32_LE.itemsize
    if dimensions and length != dimensions:
        raise InvalidArgument(
            f"the vector of {vector.image_id!r} has {length:,} values, those before it have {dimensions:,}",
            reason="DIMENSION_MISMATCH",
            field="vectors",
            hint="All vectors of one model have the same length.",
        )
    image_id = check_image_id(vector.image_id)
    return built(lambda: embedder_pb2.ImageVector(image_id=image_id, sha256=vector.sha256, vector=data))


def _vectors_request(
    name: str, model: str, dimensions: int, batch: Sequence[embedder_pb2.ImageVector]
) -> embedder_pb2.PutVectorsRequest:
    return built(
        lambda: embedder_pb2.PutVectorsRequest(collection=name, model=model, dimensions=dimensions, vectors=batch)
    )
