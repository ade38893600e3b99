"""Turns what the embedder knows into messages. Nothing here decides anything."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from services.common.failures import bounded
from services.embedder.adding import Progress, Result
from services.embedder.collections.collection import Collection
from services.embedder.collections.model import ImageInfo, Outcome
from services.embedder.encoders import Encoder
from services.embedder.encoders.matching import matcher_of
from services.embedder.scoring import Found, Ranks
from warmer.errors import WarmerError, to_status
from warmer.names import image_name
from warmer.v1 import common_pb2, embedder_pb2

_OUTCOMES = {
    Outcome.ADDED: embedder_pb2.AddImagesResult.OUTCOME_ADDED,
    Outcome.REPLACED: embedder_pb2.AddImagesResult.OUTCOME_REPLACED,
    Outcome.UNCHANGED: embedder_pb2.AddImagesResult.OUTCOME_UNCHANGED,
}


def model_message(encoder: Encoder) -> common_pb2.Model:
    """The model that an encoder runs; precision and device where it knows them."""
    return common_pb2.Model(
        id=encoder.id,
        backend=encoder.backend,
        dimensions=encoder.dimensions,
        max_tokens=encoder.max_tokens,
        precision=str(getattr(encoder, "precision", "")),
        device=str(getattr(encoder, "device", "")),
        can_rerank=matcher_of(encoder) is not None,
    )


def collection_message(collection: Collection) -> embedder_pb2.Collection:
    """The resource of a collection."""
    info = collection.info
    states = embedder_pb2.Collection.State
    return embedder_pb2.Collection(
        name=collection.name,
        model=info.model,
        dimensions=info.dimensions,
        distance=embedder_pb2.Collection.DISTANCE_INNER_PRODUCT,
        image_count=info.image_count,
        content_bytes=info.content_bytes,
        revision=info.revision,
        state=states.STATE_READY if collection.matches else states.STATE_MODEL_MISMATCH,
        create_time=_timestamp(info.create_us),
        update_time=_timestamp(info.update_us),
        description=info.description,
        vector_sets=[
            embedder_pb2.VectorSet(model=kept.model, dimensions=kept.dimensions, image_count=kept.image_count)
            for kept in info.vector_sets
        ],
    )


def image_message(collection_id: str, image: ImageInfo) -> embedder_pb2.Image:
    """The resource of an image."""
    return embedder_pb2.Image(
        name=image_name(collection_id, image.image_id),
        image_id=image.image_id,
        sha256=image.sha256.hex(),
        media_type=image.facts.media_type,
        width=image.facts.width,
        height=image.facts.height,
        size_bytes=image.size_bytes,
        source=image.source,
        create_time=_timestamp(image.create_us),
    )


def progress_message(progress: Progress) -> embedder_pb2.AddImagesResponse:
    """What AddImages answers after a commit."""
    return embedder_pb2.AddImagesResponse(
        committed_offset=progress.committed_offset,
        revision=progress.revision,
        results=map(_result_message, progress.results),
    )


def _result_message(result: Result) -> embedder_pb2.AddImagesResult:
    if result.outcome is None:
        return embedder_pb2.AddImagesResult(
            offset=result.offset,
            image_id=result.image_id,
            status=status_of(result.error),
            outcome=embedder_pb2.AddImagesResult.OUTCOME_FAILED,
        )
    return embedder_pb2.AddImagesResult(
        offset=result.offset,
        image_id=result.image_id,
        status=Status(),
        outcome=_OUTCOMES[result.outcome],
        sha256=result.sha256.hex(),
    )


def status_of(error: WarmerError | None) -> Status:
    """The status of one item among many: OK without an error."""
    return Status() if error is None else to_status(bounded(error))


def search_message(
    found: Found, truncations: Iterable[common_pb2.Truncation], timings: Iterable[tuple[str, float]]
) -> embedder_pb2.SearchResponse:
    """What Search answers."""
    hashes = found.hashes.tobytes().hex()
    rows = zip(found.ids, found.scores.tolist(), found.similarities.tolist(), strict=True)
    hits = [
        common_pb2.Hit(image_id=id, score=score, similarity=similarity, sha256=hashes[64 * i : 64 * i + 64])
        for i, (id, score, similarity) in enumerate(rows)
    ]
    if found.matches is not None:
        for hit, match in zip(hits, found.matches.tolist(), strict=True):
            if not math.isnan(match):
                hit.match = match
    return embedder_pb2.SearchResponse(
        hits=hits, revision=found.revision, truncations=truncations, timings=[_timing(*timing) for timing in timings]
    )


def ranks_message(ids: Sequence[str], ranked: Ranks) -> embedder_pb2.RankImagesResponse:
    """What RankImages answers."""
    columns = zip(ids, ranked.ranks.tolist(), ranked.scores.tolist(), ranked.similarities.tolist(), strict=True)
    ranks = [
        embedder_pb2.ImageRank(image_id=id, rank=rank or None, score=score, similarity=similarity)
        for id, rank, score, similarity in columns
    ]
    return embedder_pb2.RankImagesResponse(ranks=ranks, candidates=ranked.candidates, revision=ranked.revision)


def truncations_of(tokens: Iterable[tuple[int, int]], max_tokens: int) -> list[common_pb2.Truncation]:
    """Truncations among (index, tokens) of texts."""
    return [
        common_pb2.Truncation(index=index, tokens=count, max_tokens=max_tokens)
        for index, count in tokens
        if count > max_tokens
    ]


def packed(vectors: np.ndarray) -> bytes:
    """Little-endian float32 bytes."""
    return vectors.astype("<f4", copy=False).tobytes()


def _timing(stage: str, seconds: float) -> common_pb2.StageTiming:
    return common_pb2.StageTiming(stage=stage, duration=Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds)))


def _timestamp(microseconds: int) -> Timestamp:
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)
