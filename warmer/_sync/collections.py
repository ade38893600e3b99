"""``client.collections``: keeps and fills collections."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from warmer import _kept_requests, _requests
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

    def images(
        self,
        id: str,
        *,
        without_captions_of: str = "",
        without_captions_prompt_version: str = "",
        without_vectors_of: str = "",
        page_size: int = _requests.PAGE_SIZE,
    ) -> Iterator[Image]:
        """Metadata of all images, or of those that lack something, by id; pages are fetched as they are needed.

        Args:
            id: the collection.
            without_captions_of: if set, only images without a kept caption of this model and the prompt version.
            without_captions_prompt_version: goes with ``without_captions_of``; empty for a model without prompts.
            without_vectors_of: if set, only images without a vector of this model.
            page_size: images fetched at once, at most 1,000.
        """
        request = _kept_requests.list_images(
            id, page_size, without_captions_of, without_captions_prompt_version, without_vectors_of
        )

        def fetch(token: str) -> embedder_pb2.ListImagesResponse:
            return call(self._stub.ListImages, _kept_requests.page_of(request, token))

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

    def put_captions(self, id: str, captions: Iterable[ImageCaption]) -> PutCaptionsResult:
        """Keeps captions in the collection, so that no round has to wait for them. Sent in batches.

        A caption belongs to the content of an image and to the model and prompt that wrote it; one that exists is
        replaced. It goes when its content goes.

        Raises:
            NotFound: no such collection.
            InvalidArgument: ``EMPTY_CAPTION``, ``CAPTION_TOO_LONG``, ``BAD_MODEL``, ``BAD_SHA256``; nothing of its
                batch of 1,000 is kept.
        """
        requests = _kept_requests.put_captions(id, captions)
        return _kept_requests.put_captions_result([call(self._stub.PutCaptions, request) for request in requests])

    def captions(
        self, id: str, image_ids: str | Iterable[str], *, model: str = "", prompt_version: str = ""
    ) -> tuple[ImageCaption, ...]:
        """The kept captions of images, in the order asked for; images without one are left out.

        Args:
            id: the collection.
            image_ids: the images.
            model: whose captions; empty takes the newest of any model.
            prompt_version: goes with ``model``.
        """
        requests = _kept_requests.get_captions(id, image_ids, model, prompt_version)
        responses = [call(self._stub.GetCaptions, request) for request in requests]
        return tuple(ImageCaption.from_proto(kept) for response in responses for kept in response.captions)

    def put_vectors(self, id: str, model: str, vectors: Iterable[ImageVector] = ()) -> PutVectorsResult:
        """Keeps vectors that another model made, until there is one for every image. Sent in batches.

        An embedder that runs that model then takes them as the collection's own: at once, or when it opens the
        collection. The vectors used before are kept. Without any vectors it only tells how far the set is, and takes
        it over where it can.

        Args:
            id: the collection.
            model: identity of the model that made them.
            vectors: all of one length.

        Raises:
            NotFound: no such collection.
            InvalidArgument: ``BAD_VECTOR``, ``BAD_MODEL``, ``BAD_SHA256``; nothing of its batch of 1,000 is kept.
            FailedPrecondition: ``DIMENSION_MISMATCH``: there are vectors of this model of another length.
        """
        requests = _kept_requests.put_vectors(id, model, vectors)
        return _kept_requests.put_vectors_result([call(self._stub.PutVectors, request) for request in requests])

    def delete_vectors(self, id: str, model: str) -> None:
        """Forgets the kept vectors of a model.

        Raises:
            NotFound: ``VECTORS_NOT_FOUND``, or no such collection.
            FailedPrecondition: ``VECTORS_IN_USE``: the collection is searched with them.
        """
        request = embedder_pb2.DeleteVectorsRequest(collection=collection_name(id), model=model)
        call(self._stub.DeleteVectors, request)

    def _collections_page(self, token: str) -> embedder_pb2.ListCollectionsResponse:
        request = embedder_pb2.ListCollectionsRequest(page_size=_requests.PAGE_SIZE, page_token=token)
        return call(self._stub.ListCollections, request)

    def _folder_results(
        self, id: str, problems: Iterable[AddResult], images: Iterable[NewImage]
    ) -> Iterator[AddResult]:
        yield from problems
        yield from self.add_images(id, images)
