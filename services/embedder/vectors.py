"""Vectors that callers bring: checked before they are kept, for one that is none would spoil every search after."""

import numpy as np

from services.embedder.collections.model import CollectionInfo
from services.embedder.validation import FLOAT32, bad
from warmer.errors import FailedPrecondition
from warmer.names import collection_name

MAX_DIMENSIONS = 65_536
_TOLERANCE = 1e-3  # as for the encoder's own


def unit_vector(data: bytes, dimensions: int, field: str) -> np.ndarray:
    """The unit vector (D,) in little-endian float32 bytes. Raises InvalidArgument (DIMENSION_MISMATCH, BAD_VECTOR)."""
    if len(data) != dimensions * FLOAT32.itemsize:
        message = f"the vector has {len(data):,} bytes, {dimensions:,} float32 values have {4 * dimensions:,}"
        raise bad("DIMENSION_MISMATCH", message, field, "send little-endian float32 values of the model's length")
    vector = np.frombuffer(data, FLOAT32)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not abs(length - 1) < _TOLERANCE:  # NaN compares as False
        message = f"the vector's length is {length:.6g}, not 1"
        raise bad("BAD_VECTOR", message, field, "divide it by its length; look for NaN where it was made")
    return vector


def given_vector(data: bytes, model: str, info: CollectionInfo) -> np.ndarray | None:
    """The vector (D,) that an image to add comes with; None when it is to be embedded here.

    Raises as `unit_vector`, and FailedPrecondition (MODEL_MISMATCH) when another model than the collection's made it.
    """
    if not data and not model:
        return None
    if model != info.model:
        raise FailedPrecondition(
            f"the vector was made by {model or 'a model that is not named'}, {collection_name(info.id)} has vectors of "
            f"{info.model}",
            reason="MODEL_MISMATCH",
            resource=collection_name(info.id),
            field="item.vector_model",
            hint="add the image without a vector, or keep the vectors beside the collection's with PutVectors",
            metadata={"collection_model": info.model, "vector_model": model},
        )
    return unit_vector(data, info.dimensions, "item.vector")
