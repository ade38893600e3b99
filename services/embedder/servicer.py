"""Every RPC of the EmbedderService: checks what is asked, hands it on, and makes a message of the answer.

Nothing that blocks or computes runs here. Errors are raised as WarmerError; the server's interceptor makes statuses.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from services.common.decoding import Decoder
from services.common.settings import Settings
from services.embedder import keeping, messages
from services.embedder.adding import Adding
from services.embedder.budget import Budget
from services.embedder.collections.catalog import Catalog
from services.embedder.collections.collection import Collection
from services.embedder.collections.model import ForgetVectors, Outcome, Remove
from services.embedder.embedding import Embedding
from services.embedder.incoming import opened
from services.embedder.paging import id_before, page_size, token_after
from services.embedder.searching import Searcher
from services.embedder.validation import check_ids, check_text, query_of, too_many
from warmer.errors import Unavailable, WarmerError
from warmer.names import check_collection_id, collection_id, image_parts
from warmer.v1 import common_pb2, embedder_pb2, embedder_pb2_grpc

T = TypeVar("T")
Context = Any  # the grpc.aio.ServicerContext; nothing here uses it

_MAX_TEXTS = 1024
_MAX_IMAGES = 256
_IMAGES_AT_ONCE = 32
_HITS_AT_ONCE = 500  # more are made into messages on a thread: 10,000 take some 10 ms
_STORAGE_THREADS = 8
# Items of all AddImages streams together: enough batches to keep decoding, embedding and committing busy at once.
_BUDGET_ITEMS = 192
_BUDGET_BYTES = 128 * 1024 * 1024
_COLLECTIONS = "collections"


class EmbedderServicer(embedder_pb2_grpc.EmbedderServiceServicer):
    """The EmbedderService over a catalogue and an encoder. Belongs to one event loop."""

    def __init__(self, settings: Settings, catalog: Catalog, decoder: Decoder) -> None:
        self._settings = settings
        self._catalog = catalog
        self._decoder = decoder
        self._attached: Embedding | None = None
        self._search_threads = ThreadPoolExecutor(max(2, settings.threads), thread_name_prefix="search")
        self._storage = ThreadPoolExecutor(_STORAGE_THREADS, thread_name_prefix="storage")
        self._budget = Budget(_BUDGET_ITEMS, max(_BUDGET_BYTES, 2 * settings.max_image_bytes))

    def attach(self, embedding: Embedding) -> None:
        """Gives the servicer its encoder, once the catalogue is open too; until then it answers nothing."""
        self._attached = embedding

    def close(self) -> None:
        """Ends the threads. The catalogue, the embedding and the decoder belong to those who made them."""
        self._search_threads.shutdown(wait=False)
        self._storage.shutdown(wait=False)

    @property
    def _embedding(self) -> Embedding:
        if self._attached is None:
            raise Unavailable("the embedder is loading its model", reason="WARMING_UP", retry_after_s=1.0)
        return self._attached

    @property
    def _searcher(self) -> Searcher:
        return Searcher(self._embedding, self._search_threads, self._storage)

    async def _blocking(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._storage, function, *args)

    async def GetModel(self, _request: common_pb2.GetModelRequest, _context: Context) -> common_pb2.Model:
        """The embedding model that this server runs."""
        return messages.model_message(self._embedding.encoder)

    async def CreateCollection(
        self, request: embedder_pb2.CreateCollectionRequest, _context: Context
    ) -> embedder_pb2.Collection:
        """Creates an empty collection for the server's model."""
        check_collection_id(request.collection_id)
        self._catalog.require_dimensions(request.expected_dimensions)
        description = request.collection.description
        return messages.collection_message(
            await self._blocking(self._catalog.create, request.collection_id, description)
        )

    async def GetCollection(
        self, request: embedder_pb2.GetCollectionRequest, _context: Context
    ) -> embedder_pb2.Collection:
        """One collection."""
        return messages.collection_message(self._collection(request.name))

    async def ListCollections(
        self, request: embedder_pb2.ListCollectionsRequest, _context: Context
    ) -> embedder_pb2.ListCollectionsResponse:
        """All collections, by name, in pages."""
        size = page_size(request.page_size)
        found = self._catalog.list(id_before(request.page_token, _COLLECTIONS), size + 1)
        return embedder_pb2.ListCollectionsResponse(
            collections=map(messages.collection_message, found[:size]),
            next_page_token=token_after(_COLLECTIONS, found[size - 1].info.id) if len(found) > size else "",
        )

    async def DeleteCollection(self, request: embedder_pb2.DeleteCollectionRequest, _context: Context) -> Empty:
        """Deletes a collection with its images."""
        await self._blocking(self._catalog.delete, collection_id(request.name))
        return Empty()

    async def AddImages(
        self, request_iterator: AsyncIterator[embedder_pb2.AddImagesRequest], _context: Context
    ) -> AsyncIterator[embedder_pb2.AddImagesResponse]:
        """Adds images; see `Adding`."""
        name, items = await opened(request_iterator)
        collection = self._collection(name)
        collection.check_model()
        adding = Adding(collection, self._embedding, self._budget, self._storage, self._settings.commit_items)
        stream = adding.run(items)
        try:
            async for progress in stream:
                yield messages.progress_message(progress)
        finally:
            await stream.aclose()

    async def RemoveImages(
        self, request: embedder_pb2.RemoveImagesRequest, _context: Context
    ) -> embedder_pb2.RemoveImagesResponse:
        """Removes images by id."""
        collection = self._collection(request.collection)
        ids = list(dict.fromkeys(check_ids(request.image_ids, "image_ids")))
        written = await asyncio.wrap_future(collection.write([Remove(id) for id in ids]))
        absent = [id for id, outcome in zip(ids, written.outcomes, strict=True) if outcome is Outcome.ABSENT]
        return embedder_pb2.RemoveImagesResponse(
            removed_count=len(ids) - len(absent), missing_image_ids=absent, revision=written.revision
        )

    async def GetImage(self, request: embedder_pb2.GetImageRequest, _context: Context) -> embedder_pb2.Image:
        """Metadata of one image."""
        collection, image_id = self._image(request.name)
        image = await self._blocking(collection.image, image_id)
        return messages.image_message(collection.info.id, image)

    async def ListImages(
        self, request: embedder_pb2.ListImagesRequest, _context: Context
    ) -> embedder_pb2.ListImagesResponse:
        """Metadata of all images of a collection, or of those that lack something, by id, in pages."""
        collection = self._collection(request.collection)
        size = page_size(request.page_size)
        after = id_before(request.page_token, collection.name)
        images = await self._blocking(collection.images_after, after, size + 1, keeping.without_of(request))
        return embedder_pb2.ListImagesResponse(
            images=[messages.image_message(collection.info.id, image) for image in images[:size]],
            next_page_token=token_after(collection.name, images[size - 1].image_id) if len(images) > size else "",
        )

    async def GetImageContent(
        self, request: embedder_pb2.GetImageContentRequest, _context: Context
    ) -> AsyncIterator[embedder_pb2.GetImageContentResponse]:
        """Content of one image in chunks, as stored or downscaled."""
        collection, image_id = self._image(request.name)
        image, content = await self._blocking(collection.content, image_id)
        media_type = image.facts.media_type
        if request.max_edge:
            content, media_type = await self._decoder.thumbnail(content, request.max_edge), "image/jpeg"
        size = self._settings.content_chunk_bytes
        for start in range(0, len(content), size):
            part = content[start : start + size]
            yield embedder_pb2.GetImageContentResponse(media_type="" if start else media_type, chunk=part)

    async def PutCaptions(
        self, request: embedder_pb2.PutCaptionsRequest, _context: Context
    ) -> embedder_pb2.PutCaptionsResponse:
        """Keeps captions of images, made ahead of time."""
        collection = self._collection(request.collection)
        captions = keeping.captions_of(request)
        return keeping.put_captions_message(captions, await asyncio.wrap_future(collection.write(captions)))

    async def GetCaptions(
        self, request: embedder_pb2.GetCaptionsRequest, _context: Context
    ) -> embedder_pb2.GetCaptionsResponse:
        """The kept captions of given images."""
        collection = self._collection(request.collection)
        ids = keeping.caption_ids_of(request)
        kept = await self._blocking(collection.captions, ids, request.model, request.prompt_version)
        return keeping.captions_message(kept)

    async def PutVectors(
        self, request: embedder_pb2.PutVectorsRequest, _context: Context
    ) -> embedder_pb2.PutVectorsResponse:
        """Keeps vectors that another model made, and takes them over when they are complete and this server's."""
        collection = self._collection(request.collection)
        vectors = keeping.vectors_of(request)
        written = await asyncio.wrap_future(collection.write(vectors))
        if not collection.matches:
            await asyncio.wrap_future(collection.adopt())
        return keeping.put_vectors_message(request.model, vectors, written, collection.info)

    async def DeleteVectors(self, request: embedder_pb2.DeleteVectorsRequest, _context: Context) -> Empty:
        """Forgets the kept vectors of one model."""
        collection = self._collection(request.collection)
        forget = ForgetVectors(keeping.check_model_id(request.model, "model"))
        error = keeping.not_forgotten(forget, await asyncio.wrap_future(collection.write([forget])))
        if error is not None:
            raise error
        return Empty()

    async def EmbedText(
        self, request: embedder_pb2.EmbedTextRequest, _context: Context
    ) -> embedder_pb2.EmbedTextResponse:
        """Embeds texts."""
        if len(request.texts) > _MAX_TEXTS:
            raise too_many(len(request.texts), "texts", _MAX_TEXTS, "texts")
        texts = [check_text(text, f"texts[{index}]") for index, text in enumerate(request.texts)]
        embedded = await self._embedding.texts(texts)
        encoder = self._embedding.encoder
        tokens = ((index, text.tokens) for index, text in enumerate(embedded))
        return embedder_pb2.EmbedTextResponse(
            vectors=b"".join(messages.packed(text.vector) for text in embedded),
            dimensions=encoder.dimensions,
            model=encoder.id,
            truncations=messages.truncations_of(tokens, encoder.max_tokens),
        )

    async def EmbedImages(
        self, request: embedder_pb2.EmbedImagesRequest, _context: Context
    ) -> embedder_pb2.EmbedImagesResponse:
        """Embeds images that need not be in any collection; one that fails does not stop the rest."""
        if len(request.images) > _MAX_IMAGES:
            raise too_many(len(request.images), "images", _MAX_IMAGES, "images")
        response = embedder_pb2.EmbedImagesResponse(
            dimensions=self._embedding.encoder.dimensions, model=self._embedding.encoder.id
        )
        for start in range(0, len(request.images), _IMAGES_AT_ONCE):
            for result in await self._embedding.images(request.images[start : start + _IMAGES_AT_ONCE]):
                if isinstance(result, WarmerError):
                    response.embeddings.add(status=messages.status_of(result))
                else:
                    response.embeddings.add(vector=messages.packed(result), status=messages.status_of(None))
        return response

    async def Search(self, request: embedder_pb2.SearchRequest, _context: Context) -> embedder_pb2.SearchResponse:
        """The best images under one search."""
        query = query_of(request.search, self._settings)
        found, used = await self._searcher.search(self._catalog.get(query.collection_id), query)
        encoder = self._embedding.encoder
        truncations = messages.truncations_of(used.tokens, encoder.max_tokens)
        if len(found.ids) > _HITS_AT_ONCE:
            return await self._blocking(messages.search_message, found, truncations, used.timings)
        return messages.search_message(found, truncations, used.timings)

    async def RankImages(
        self, request: embedder_pb2.RankImagesRequest, _context: Context
    ) -> embedder_pb2.RankImagesResponse:
        """The exact rank and score of given images under one search."""
        query = query_of(request.search, self._settings)
        ids = check_ids(request.image_ids, "image_ids")
        collection = self._catalog.get(query.collection_id)
        ranked = await self._searcher.rank(collection, query, ids, excluding=request.apply_exclusions)
        return messages.ranks_message(ids, ranked)

    def _collection(self, name: str) -> Collection:
        return self._catalog.get(collection_id(name))

    def _image(self, name: str) -> tuple[Collection, str]:
        id, image_id = image_parts(name)
        return self._catalog.get(id), image_id
