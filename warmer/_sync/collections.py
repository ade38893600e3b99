"""``client.collections``: keeps and fills collections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from warmer import _requests
from warmer._folder import FolderTally, scan_folder
from warmer._sync.adding import add_images
from warmer._sync.calls import call, pages, stream
from warmer.names import collection_name, image_name
from warmer.types import (
    AddResult,
    Collection,
    FolderProgress,
    FolderReport,
    Image,
    NewImage,
    RemoveResult,
)
from warmer.v1 import embedder_pb2, embedder_pb2_grpc


class Collections:
    """Creates, fills, lists and deletes collections."""

    def __init__(self, embedder: embedder_pb2_grpc.EmbedderServiceStub) -> None:
        self._stub = embedder

    def create(self, id: str, *, description: str = "", expected_dimensions: int = 0) -> Collection:
        """Creates an empty collection for the server's model.

        Args:
            id: 1 to 63 of ``a-z``, ``0-9``, ``-`` and ``_``.
            description: free text for people.
            expected_dimensions: if not 0, FailedPrecondition (``DIMENSION_MISMATCH``) when the model's are others.

        Raises:
            AlreadyExists: the id is taken.
        """
        request = _requests.create_collection(id, description, expected_dimensions)
        return Collection.from_proto(call(self._stub.CreateCollection, request))

    def get(self, id: str) -> Collection:
        """One collection. Raises NotFound (``COLLECTION_NOT_FOUND``)."""
        request = embedder_pb2.GetCollectionRequest(name=collection_name(id))
        return Collection.from_proto(call(self._stub.GetCollection, request))

    def list(self) -> Iterator[Collection]:
        """All collections, by name; pages are fetched as they are needed."""
        for page in pages(self._collections_page):
            yield from map(Collection.from_proto, page.collections)

    def delete(self, id: str) -> None:
        """Deletes a collection with its images. Raises NotFound."""
        call(self._stub.DeleteCollection, embedder_pb2.DeleteCollectionRequest(name=collection_name(id)))

    def add_images(self, id: str, images: Iterable[NewImage]) -> Iterator[AddResult]:
        """Adds images over one stream and yields one result for each, in the order of completion.

        An image that cannot be read or is no image gives a result with ``outcome == "failed"`` and an ``error``; the
        rest goes on. A result that is not ``failed`` is durable and findable. To resume after an interruption send all
        again: what is there already costs little and comes back ``unchanged``. Leaving the iterator early stops.

        Args:
            id: the collection.
            images: read ahead on another thread, with at most 256 images or 64 MiB in flight.

        Raises:
            NotFound: no such collection.
            Unavailable: the connection broke; what was yielded is stored.
            DeadlineExceeded: no result came for two minutes (``STALLED``).
        """
        yield from add_images(self._stub, collection_name(id), images)

    def add_folder(
        self, id: str, directory: str | os.PathLike[str], *, progress: Callable[[FolderProgress], None] | None = None
    ) -> FolderReport:
        """Adds all images of a folder and of those below it.

        Takes each regular file that is an image by its first bytes or by its suffix, in sorted order; image ids are the
        relative paths, escaped by :func:`warmer.names.image_id_from_path`. Hidden files and folders are left out, links
        are followed unless they lead back. Run it again after changes: unchanged files cost little.

        Args:
            id: the collection.
            directory: the folder.
            progress: called after each result.

        Raises:
            InvalidArgument: ``NOT_A_FOLDER``.
            NotFound: no such collection.
        """
        scan = scan_folder(directory)
        tally = FolderTally(scan)
        for result in self._folder_results(id, scan.problems, scan.images):
            tally.take(result)
            if progress is not None:
                progress(FolderProgress(tally.done, scan.total, result))
        return tally.report()

    def remove(self, id: str, image_ids: str | Iterable[str]) -> RemoveResult:
        """Removes images; ids that are not there are named in the result and are no error."""
        return RemoveResult.from_proto(call(self._stub.RemoveImages, _requests.remove_images(id, image_ids)))

    def images(self, id: str) -> Iterator[Image]:
        """Metadata of all images, by id; pages are fetched as they are needed."""
        name = collection_name(id)

        def fetch(token: str) -> embedder_pb2.ListImagesResponse:
            request = embedder_pb2.ListImagesRequest(collection=name, page_size=_requests.PAGE_SIZE, page_token=token)
            return call(self._stub.ListImages, request)

        for page in pages(fetch):
            yield from map(Image.from_proto, page.images)

    def image(self, id: str, image_id: str) -> Image:
        """Metadata of one image. Raises NotFound (``IMAGE_NOT_FOUND``)."""
        request = embedder_pb2.GetImageRequest(name=image_name(id, image_id))
        return Image.from_proto(call(self._stub.GetImage, request))

    def image_bytes(self, id: str, image_id: str, *, max_edge: int = 0) -> bytes:
        """The content of one image.

        Args:
            id: the collection.
            image_id: the image.
            max_edge: if not 0, an upright JPEG with its longer edge at most this many pixels; 0 gives the stored file.
        """
        return b"".join(self.image_chunks(id, image_id, max_edge=max_edge))

    def image_chunks(self, id: str, image_id: str, *, max_edge: int = 0) -> Iterator[bytes]:
        """The content of one image in pieces, as they arrive; see :meth:`image_bytes`."""
        request = _requests.image_content(id, image_id, max_edge)
        for message in stream(self._stub.GetImageContent, request):
            yield message.chunk

    def _collections_page(self, token: str) -> embedder_pb2.ListCollectionsResponse:
        request = embedder_pb2.ListCollectionsRequest(page_size=_requests.PAGE_SIZE, page_token=token)
        return call(self._stub.ListCollections, request)

    def _folder_results(
        self, id: str, problems: Iterable[AddResult], images: Iterable[NewImage]
    ) -> Iterator[AddResult]:
        yield from problems
        yield from self.add_images(id, images)
