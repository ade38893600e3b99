"""``client.collections``, for asyncio; arguments and errors are those of :mod:`warmer._sync.collections`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing

from warmer import _kept_requests, _requests
from warmer._aio.adding import add_images
from warmer._aio.calls import call, pages, stream
from warmer._folder import FolderTally, scan_folder
from warmer.names import collection_name, image_name
from warmer.types import (
    AddResult,
    Collection,
    FolderProgress,
    FolderReport,
    Image,
    ImageCaption,
    ImageVector,
    NewImage,
    PutCaptionsResult,
    PutVectorsResult,
    RemoveResult,
)
from warmer.v1 import embedder_pb2, embedder_pb2_grpc


class Collections:
    """Creates, fills, lists and deletes collections."""

    def __init__(self, embedder: embedder_pb2_grpc.EmbedderServiceAsyncStub) -> None:
        self._stub = embedder

    async def create(self, id: str, *, description: str = "", expected_dimensions: int = 0) -> Collection:
        """Creates an empty collection for the server's model."""
        request = _requests.create_collection(id, description, expected_dimensions)
        return Collection.from_proto(await call(self._stub.CreateCollection, request))

    async def get(self, id: str) -> Collection:
        """One collection. Raises NotFound (``COLLECTION_NOT_FOUND``)."""
        request = embedder_pb2.GetCollectionRequest(name=collection_name(id))
        return Collection.from_proto(await call(self._stub.GetCollection, request))

    async def list(self) -> AsyncIterator[Collection]:
        """All collections, by name; pages are fetched as they are needed."""
        async for page in pages(self._collections_page):
            for message in page.collections:
                yield Collection.from_proto(message)

    async def delete(self, id: str) -> None:
        """Deletes a collection with its images. Raises NotFound."""
        await call(self._stub.DeleteCollection, embedder_pb2.DeleteCollectionRequest(name=collection_name(id)))

    async def add_images(
        self, id: str, images: Iterable[NewImage] | AsyncIterable[NewImage]
    ) -> AsyncIterator[AddResult]:
        """Adds images over one stream and yields one result for each, in the order of completion."""
        async with aclosing(add_images(self._stub, collection_name(id), images)) as results:
            async for result in results:
                yield result

    async def add_folder(
        self, id: str, directory: str | os.PathLike[str], *, progress: Callable[[FolderProgress], None] | None = None
    ) -> FolderReport:
        """Adds all images of a folder and of those below it."""
        scan = await asyncio.to_thread(scan_folder, directory)
        tally = FolderTally(scan)
        async for result in self._folder_results(id, scan.problems, scan.images):
            tally.take(result)
            if progress is not None:
                progress(FolderProgress(tally.done, scan.total, result))
        return tally.report()

    async def remove(self, id: str, image_ids: str | Iterable[str]) -> RemoveResult:
        """Removes images; ids that are not there are named in the result and are no error."""
        return RemoveResult.from_proto(await call(self._stub.RemoveImages, _requests.remove_images(id, image_ids)))

    async def images(
        self,
        id: str,
        *,
        without_captions_of: str = "",
        without_captions_prompt_version: str = "",
        without_vectors_of: str = "",
        page_size: int = _requests.PAGE_SIZE,
    ) -> AsyncIterator[Image]:
        """Metadata of all images, or of those that lack something, by id; pages are fetched as they are needed."""
        request = _kept_requests.list_images(
            id, page_size, without_captions_of, without_captions_prompt_version, without_vectors_of
        )

        async def fetch(token: str) -> embedder_pb2.ListImagesResponse:
            return await call(self._stub.ListImages, _kept_requests.page_of(request, token))

        async for page in pages(fetch):
            for message in page.images:
                yield Image.from_proto(message)

    async def image(self, id: str, image_id: str) -> Image:
        """Metadata of one image. Raises NotFound (``IMAGE_NOT_FOUND``)."""
        request = embedder_pb2.GetImageRequest(name=image_name(id, image_id))
        return Image.from_proto(await call(self._stub.GetImage, request))

    async def image_bytes(self, id: str, image_id: str, *, max_edge: int = 0) -> bytes:
        """The content of one image."""
        return b"".join([chunk async for chunk in self.image_chunks(id, image_id, max_edge=max_edge)])

    async def image_chunks(self, id: str, image_id: str, *, max_edge: int = 0) -> AsyncIterator[bytes]:
        """The content of one image in pieces, as they arrive; see :meth:`image_bytes`."""
        request = _requests.image_content(id, image_id, max_edge)
        async with aclosing(stream(self._stub.GetImageContent, request)) as messages:
            async for message in messages:
                yield message.chunk

    async def put_captions(self, id: str, captions: Iterable[ImageCaption]) -> PutCaptionsResult:
        """Keeps captions in the collection, so that no round has to wait for them. Sent in batches."""
        requests = _kept_requests.put_captions(id, captions)
        responses = [await call(self._stub.PutCaptions, request) for request in requests]
        return _kept_requests.put_captions_result(responses)

    async def captions(
        self, id: str, image_ids: str | Iterable[str], *, model: str = "", prompt_version: str = ""
    ) -> tuple[ImageCaption, ...]:
        """The kept captions of images, in the order asked for; images without one are left out."""
        requests = _kept_requests.get_captions(id, image_ids, model, prompt_version)
        responses = [await call(self._stub.GetCaptions, request) for request in requests]
        return tuple(ImageCaption.from_proto(kept) for response in responses for kept in response.captions)

    async def put_vectors(self, id: str, model: str, vectors: Iterable[ImageVector] = ()) -> PutVectorsResult:
        """Keeps vectors that another model made, until there is one for every image. Sent in batches."""
        requests = _kept_requests.put_vectors(id, model, vectors)
        responses = [await call(self._stub.PutVectors, request) for request in requests]
        return _kept_requests.put_vectors_result(responses)

    async def delete_vectors(self, id: str, model: str) -> None:
        """Forgets the kept vectors of a model. Raises NotFound, FailedPrecondition (``VECTORS_IN_USE``)."""
        request = embedder_pb2.DeleteVectorsRequest(collection=collection_name(id), model=model)
        await call(self._stub.DeleteVectors, request)

    async def _collections_page(self, token: str) -> embedder_pb2.ListCollectionsResponse:
        request = embedder_pb2.ListCollectionsRequest(page_size=_requests.PAGE_SIZE, page_token=token)
        return await call(self._stub.ListCollections, request)

    async def _folder_results(
        self, id: str, problems: Iterable[AddResult], images: Iterable[NewImage]
    ) -> AsyncIterator[AddResult]:
        for problem in problems:
            yield problem
        async for result in self.add_images(id, images):
            yield result
