"""Images that are added with their vector: decoded, not embedded, and refused alone when the vector is none."""

from collections.abc import Sequence

import numpy as np
import pytest
from embedder_kit import Api, picture
from test_embedder_kept import PHOTOS, listed, some_vector
from tiny_encoder import TinyEncoder

from warmer.errors import from_status
from warmer.v1 import common_pb2, embedder_pb2


async def add_with_vectors(
    api: Api, items: Sequence[tuple[str, bytes, bytes, str]]
) -> list[embedder_pb2.AddImagesResult]:
    async def requests():
        yield embedder_pb2.AddImagesRequest(collection=PHOTOS)
        for offset, (id, content, vector, model) in enumerate(items, 1):
            item = embedder_pb2.AddImagesItem(
                offset=offset, image_id=id, content=content, vector=vector, vector_model=model
            )
            yield embedder_pb2.AddImagesRequest(item=item)

    return [result async for response in api.stub.AddImages(requests()) for result in response.results]


async def test_an_image_with_its_vector_is_decoded_and_not_embedded(api: Api, encoder: TinyEncoder) -> None:
    seen = encoder.images_seen
    vector = some_vector(3, 28)
    results = await add_with_vectors(
        api, [("given", picture("red"), vector, "tiny@1"), ("text.jpg", b"no image", vector, "tiny@1")]
    )
    assert [(r.outcome, r.status.code) for r in results] == [(embedder_pb2.AddImagesResult.OUTCOME_ADDED, 0), (4, 3)]
    assert from_status(results[1].status).reason == "NOT_AN_IMAGE"
    assert encoder.images_seen == seen
    (hit,) = (await api.search(common_pb2.QueryTerm(vector=vector))).hits
    assert hit.image_id == "given" and hit.similarity == pytest.approx(1, abs=1e-5)
    image = await api.stub.GetImage(embedder_pb2.GetImageRequest(name=f"{PHOTOS}/images/given"))
    assert (image.width, image.height, image.media_type) == (48, 48, "image/png")


async def test_bad_vectors_of_images_fail_alone(api: Api, encoder: TinyEncoder) -> None:
    content, good = picture("red"), some_vector(3, 28)
    cases = [
        ("other", good, "tiny@2", "MODEL_MISMATCH"),
        ("unnamed", good, "", "MODEL_MISMATCH"),
        ("nothing", b"", "tiny@1", "DIMENSION_MISMATCH"),
        ("short", good[:-4], "tiny@1", "DIMENSION_MISMATCH"),
        ("long", (2 * np.frombuffer(good, "<f4")).tobytes(), "tiny@1", "BAD_VECTOR"),
        ("nan", np.full(28, np.nan, "<f4").tobytes(), "tiny@1", "BAD_VECTOR"),
    ]
    items = [(id, content, vector, model) for id, vector, model, _ in cases]
    results = await add_with_vectors(api, [*items, ("fine", content, good, "tiny@1")])
    for result, (_, _, _, reason) in zip(results, cases, strict=False):
        error = from_status(result.status)
        assert error is not None and error.reason == reason, result.image_id
        assert error.field.startswith("item.vector") and error.hint
    assert await listed(api) == ["fine"]
    assert encoder.images_seen == 1, "only the server's warm-up"


async def test_a_content_that_is_there_keeps_its_vector(api: Api) -> None:
    vector, content = some_vector(3, 28), picture("green")
    await add_with_vectors(api, [("a", content, vector, "tiny@1")])
    await add_with_vectors(api, [("b", content, some_vector(4, 28), "tiny@1"), ("c", content, b"", "")])
    again = await add_with_vectors(api, [("a", content, some_vector(4, 28), "tiny@1")])
    assert again[0].outcome == embedder_pb2.AddImagesResult.OUTCOME_UNCHANGED
    hits = (await api.search(common_pb2.QueryTerm(vector=vector))).hits
    assert {hit.image_id: round(hit.similarity, 4) for hit in hits} == {"a": 1, "b": 1, "c": 1}
