"""What callers keep in a collection, captions and vectors: from requests to operations, from outcomes to answers."""

from collections.abc import Iterable, Sequence

from services.embedder.collections.model import (
    CollectionInfo,
    ForgetVectors,
    ImageCaption,
    ImageVector,
    Outcome,
    Without,
    Written,
)
from services.embedder.validation import bad, too_many
from services.embedder.vectors import MAX_DIMENSIONS, unit_vector
from warmer.errors import FailedPrecondition, NotFound, WarmerError
from warmer.names import check_image_id, collection_name
from warmer.v1 import embedder_pb2

MAX_KEPT = 1000
_MAX_TEXT_BYTES = 16_384
_MAX_MODEL_BYTES = 512


def captions_of(request: embedder_pb2.PutCaptionsRequest) -> list[ImageCaption]:
    """The captions to keep. Raises InvalidArgument."""
    _check_count(len(request.captions), "captions", "captions")
    return [_caption(caption, f"captions[{index}]") for index, caption in enumerate(request.captions)]


def caption_ids_of(request: embedder_pb2.GetCaptionsRequest) -> list[str]:
    """The images whose captions are asked for, each once. Raises InvalidArgument (TOO_MANY)."""
    _check_count(len(request.image_ids), "image ids", "image_ids")
    return list(dict.fromkeys(request.image_ids))


def vectors_of(request: embedder_pb2.PutVectorsRequest) -> list[ImageVector]:
    """The vectors to keep. Raises InvalidArgument."""
    model = check_model_id(request.model, "model")
    _check_count(len(request.vectors), "vectors", "vectors")
    if request.vectors and not 0 < request.dimensions <= MAX_DIMENSIONS:
        message = f"the dimensions are {request.dimensions}"
        raise bad("BAD_VALUE", message, "dimensions", f"give the length of the vectors, 1 to {MAX_DIMENSIONS:,}")
    kept = []
    for index, item in enumerate(request.vectors):
        field = f"vectors[{index}]"
        image_id, sha256 = _image(item.image_id, item.sha256, field)
        vector = unit_vector(item.vector, request.dimensions, f"{field}.vector")
        kept.append(ImageVector(image_id, sha256, model, vector.tobytes()))
    return kept


def check_model_id(model: str, field: str) -> str:
    """The identity of a model. Raises InvalidArgument (BAD_MODEL)."""
    size = len(model.encode())
    if not 0 < size <= _MAX_MODEL_BYTES:
        message = f"the model's identity has {size:,} bytes of UTF-8"
        raise bad("BAD_MODEL", message, field, f"give `Model.id` as GetModel answers it, 1 to {_MAX_MODEL_BYTES} bytes")
    return model


def without_of(request: embedder_pb2.ListImagesRequest) -> Without:
    """What the listed images must lack."""
    return Without(request.without_captions_of, request.without_captions_prompt_version, request.without_vectors_of)


def put_captions_message(captions: Sequence[ImageCaption], written: Written) -> embedder_pb2.PutCaptionsResponse:
    """What PutCaptions answers."""
    return embedder_pb2.PutCaptionsResponse(
        stored_count=written.outcomes.count(Outcome.KEPT),
        stale_image_ids=_stale((caption.image_id for caption in captions), written),
    )


def captions_message(captions: Sequence[ImageCaption]) -> embedder_pb2.GetCaptionsResponse:
    """What GetCaptions answers."""
    return embedder_pb2.GetCaptionsResponse(
        captions=[
            embedder_pb2.ImageCaption(
                image_id=caption.image_id,
                sha256=caption.sha256.hex(),
                text=caption.text,
                model=caption.model,
                prompt_version=caption.prompt_version,
                tokens=caption.tokens,
            )
            for caption in captions
        ]
    )


def put_vectors_message(
    model: str, vectors: Sequence[ImageVector], written: Written, now: CollectionInfo
) -> embedder_pb2.PutVectorsResponse:
    """What PutVectors answers; `now` is the collection afterwards. Raises FailedPrecondition (DIMENSION_MISMATCH)."""
    if Outcome.OTHER_LENGTH in written.outcomes:
        raise FailedPrecondition(
            f"{collection_name(now.id)} has vectors of {model} that are not {vectors[0].dimensions:,} values long",
            reason="DIMENSION_MISMATCH",
            field="dimensions",
            hint="one identity means one length; forget the vectors that are kept if they were made wrongly",
        )
    return embedder_pb2.PutVectorsResponse(
        stored_count=written.outcomes.count(Outcome.KEPT),
        stale_image_ids=_stale((vector.image_id for vector in vectors), written),
        missing_count=now.missing_vectors(model),
        adopted=now.model == model,
    )


def not_forgotten(forget: ForgetVectors, written: Written) -> WarmerError | None:
    """Why DeleteVectors deleted nothing, or None when it did."""
    name = collection_name(written.info.id)
    match written.outcomes[0]:
        case Outcome.IN_USE:
            return FailedPrecondition(
                f"{name} is searched with the vectors of {forget.model}",
                reason="VECTORS_IN_USE",
                field="model",
                resource=name,
                hint="only vectors that are kept beside them can be forgotten",
            )
        case Outcome.ABSENT:
            return NotFound(
                f"{name} keeps no vectors of {forget.model}",
                reason="VECTORS_NOT_FOUND",
                resource=name,
                hint="GetCollection names those that it keeps in vector_sets",
            )
    return None


def _caption(caption: embedder_pb2.ImageCaption, field: str) -> ImageCaption:
    image_id, sha256 = _image(caption.image_id, caption.sha256, field)
    size = len(caption.text.encode())
    if not caption.text.strip():
        raise bad("EMPTY_CAPTION", "the caption is empty", f"{field}.text", "leave images without a caption away")
    if size > _MAX_TEXT_BYTES:
        message = f"the caption has {size:,} bytes of UTF-8"
        raise bad("CAPTION_TOO_LONG", message, f"{field}.text", f"keep it under {_MAX_TEXT_BYTES:,} bytes")
    model = check_model_id(caption.model, f"{field}.model")
    if len(caption.prompt_version.encode()) > _MAX_MODEL_BYTES:
        hint = f"give it at most {_MAX_MODEL_BYTES} bytes"
        raise bad("BAD_VALUE", "the version of the prompt is too long", f"{field}.prompt_version", hint)
    return ImageCaption(image_id, sha256, caption.text, model, caption.prompt_version, caption.tokens)


def _image(image_id: str, sha256: str, field: str) -> tuple[str, bytes]:
    """Image id and hash, checked. Raises InvalidArgument (BAD_ID, BAD_SHA256)."""
    check_image_id(image_id)
    try:
        digest = bytes.fromhex(sha256)
    except ValueError:
        digest = b""
    if len(digest) != 32 or len(sha256) != 64:
        message = f"{sha256[:80]!r} is no SHA-256 in hex"
        raise bad(
            "BAD_SHA256", message, f"{field}.sha256", "give that of the image's content, as ListImages answers it"
        )
    return image_id, digest


def _check_count(count: int, what: str, field: str) -> None:
    if count > MAX_KEPT:
        raise too_many(count, what, MAX_KEPT, field)


def _stale(image_ids: Iterable[str], written: Written) -> list[str]:
    return [id for id, outcome in zip(image_ids, written.outcomes, strict=True) if outcome is Outcome.STALE]
