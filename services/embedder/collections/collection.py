"""One collection: the record, the files, the index that follows them, and the one thread that changes all three.

What many callers want to write is committed together (group commit), so durability costs one sync for all who wait.
The order inside a commit is what makes a crash harmless: files first, then the record, then the index, and files that
nobody needs any more last. A file without a row is swept at the next start; a row never lacks its file.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import structlog

from services.embedder.collections.faults import gone, model_mismatch, storage_faults
from services.embedder.collections.lock import FolderLock
from services.embedder.collections.model import (
    Add,
    CollectionInfo,
    ImageCaption,
    ImageInfo,
    Operation,
    Outcome,
    VectorSet,
    Without,
    Written,
)
from services.embedder.collections.objects import ObjectStore
from services.embedder.collections.record import Record
from services.embedder.index.base import Change
from services.embedder.index.flat import FlatIndex
from services.embedder.index.following import load_index, save_index
from services.embedder.index.snapshot import drop
from warmer.errors import DataLoss, Internal, NotFound, WarmerError
from warmer.names import collection_name, image_name

_log = structlog.get_logger(__name__)

RECORD = "collection.sqlite3"
INDEX = "index"
CLEAN = "clean"  # there while nobody has the collection open: nothing was left half done
_SNAPSHOT_MIN = 1024
_SNAPSHOT_SHARE = 5  # a snapshot is due when a fifth of the images changed

_Request = tuple[Sequence[Operation], "Future[Written]"]


class Collection:
    """An open collection. Its methods may be called from any thread; those that return a Future do not block."""

    def __init__(self, folder: Path, model: str, dimensions: int, background: Executor) -> None:
        """Takes the writer's lock. `model` is the server's encoder; `background` runs snapshots.

        Raises FailedPrecondition (DATA_DIR_IN_USE, SCHEMA_TOO_NEW), DataLoss (COLLECTION_DAMAGED) and Internal.
        """
        self._folder = folder
        self._lock = FolderLock(folder)
        try:
            with storage_faults():
                self.record = Record(folder / RECORD)
                self.objects = ObjectStore(folder)
                self._info = self.record.info()
                self._dirty = not (folder / CLEAN).exists()
                (folder / CLEAN).unlink(missing_ok=True)
        except WarmerError:
            self._lock.release()
            raise
        self._model, self._dimensions = model, dimensions
        self._index: FlatIndex | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"write-{self._info.id}")
        self._background = background
        self._pending: list[_Request] = []
        self._pending_lock = threading.Lock()
        self._closed = False
        self._leftovers = False  # files may lie about that no row needs; the next start sweeps them
        self._unsaved = 0  # changes that no snapshot holds
        self._saving: Future[None] | None = None

    @property
    def info(self) -> CollectionInfo:
        """The collection's own row, as of the newest commit."""
        return self._info

    @property
    def name(self) -> str:
        """`collections/{collection}`."""
        return collection_name(self._info.id)

    @property
    def index(self) -> FlatIndex | None:
        """The index; None until it is loaded."""
        return self._index

    @property
    def matches(self) -> bool:
        """Whether the server's model made the vectors."""
        return (self._info.model, self._info.dimensions) == (self._model, self._dimensions)

    def check_model(self) -> None:
        """Raises FailedPrecondition (MODEL_MISMATCH) when another model than the server's made the vectors."""
        if not self.matches:
            raise model_mismatch(self._info, self._model)

    @contextmanager
    def reading(self) -> Iterator[Record]:
        """Lends the record to any thread for reading.

        Within the block, faults of the disk become WarmerErrors, NotFound when the collection is deleted meanwhile.
        """
        try:
            with storage_faults():
                yield self.record
        except Internal:
            if self._closed:
                raise gone(self.name) from None
            raise

    def image(self, image_id: str) -> ImageInfo:
        """One image. Raises NotFound (IMAGE_NOT_FOUND). Blocks."""
        with self.reading() as record:
            image = record.image(image_id)
        if image is None:
            raise NotFound(
                f"there is no image {image_id!r} in {self.name}",
                reason="IMAGE_NOT_FOUND",
                resource=image_name(self._info.id, image_id),
                hint="ListImages names those that exist",
            )
        return image

    def images_after(self, image_id: str, limit: int, without: Without) -> list[ImageInfo]:
        """At most `limit` images with a larger id that lack what `without` says, by id. Blocks."""
        with self.reading() as record:
            return record.images_after(image_id, limit, without)

    def captions(self, image_ids: Sequence[str], model: str, prompt_version: str) -> list[ImageCaption]:
        """Kept captions; see `Record.captions`. Blocks."""
        with self.reading() as record:
            return record.captions(image_ids, model, prompt_version)

    def content(self, image_id: str) -> tuple[ImageInfo, bytes]:
        """An image with its content. Raises NotFound (IMAGE_NOT_FOUND), DataLoss (CONTENT_DAMAGED). Blocks."""
        image = self.image(image_id)
        try:
            with self.reading():
                return image, self.objects.read(image.sha256)
        except DataLoss:
            # Removed or replaced in between? Then its content may be gone, and rightly.
            if self.image(image_id).sha256 == image.sha256:
                raise
            return self.content(image_id)

    def load(self) -> "Future[None]":
        """Takes kept vectors of the server's model over, if they are complete; loads the index, if the model matches
        and it is not there yet; then sweeps what a crash left."""
        return self._submit(self._load)

    def adopt(self) -> "Future[None]":
        """As `load`, but raises what keeps complete vectors of the server's model from being taken over."""
        return self._submit(self._adopt_and_load)

    def write(self, operations: Sequence[Operation]) -> "Future[Written]":
        """Applies operations in order, in a transaction shared with other callers; done is durable and findable.

        From here on the staged files of adds are this method's to remove. Raises NotFound when the collection has been
        deleted; through the future NotFound, ResourceExhausted (DISK_FULL), DataLoss and Internal.
        """
        future: Future[Written] = Future()
        with self._pending_lock:
            self._pending.append((operations, future))
        self._submit(self._write_pending)
        return future

    def close(self, *, save: bool = True) -> None:
        """Finishes what is being written, saves a snapshot if one is due, and gives the folder back. Blocks."""
        with self._pending_lock:
            if self._closed:
                return
            self._closed = True
        self._writer.submit(self._finish, save).result()
        self._writer.shutdown(wait=True)
        self._lock.release()

    def _submit(self, job: Callable[[], None]) -> "Future[None]":
        with self._pending_lock:
            if self._closed:
                for _, future in self._pending:
                    future.set_exception(gone(self.name))
                self._pending.clear()
                raise gone(self.name)
            return self._writer.submit(job)

    # What follows runs on the writer thread.

    def _adopt(self) -> None:
        """Makes complete kept vectors of the server's model the collection's own."""
        wanted = VectorSet(self._model, self._dimensions, self._info.image_count)
        if self.matches or (wanted.image_count and wanted not in self._info.vector_sets):
            return  # an empty collection has all vectors of every model
        with storage_faults():
            # A snapshot that this model had before would look right, number by number: it must be gone by then.
            drop(self._folder / INDEX)
            self._info = self.record.adopt(wanted)
        _log.info("collection has the vectors of another model now", collection=self._info.id, model=self._model)

    def _adopt_and_load(self) -> None:
        self._adopt()
        self._load()

    def _try_adopting(self) -> None:
        try:
            self._adopt()
        except WarmerError as error:
            _log.error("complete vectors are not taken over", collection=self._info.id, error=str(error))

    def _load(self) -> None:
        self._try_adopting()
        if self.matches and self._index is None:
            with storage_faults():
                self._index, self._unsaved = load_index(self._folder / INDEX, self.record, self._info)
        if self._dirty:
            with storage_faults():
                removed = self.objects.sweep(self.record.knows_content)
            self._dirty = False
            _log.info("collection was not closed properly", collection=self._info.id, swept_files=removed)

    def _write_pending(self) -> None:
        with self._pending_lock:
            taken, self._pending = self._pending, []
        requests = []
        for request in taken:
            if request[1].set_running_or_notify_cancel():
                requests.append(request)
            else:
                self._discard(request[0])
        if not requests:
            return
        try:
            written = self._commit([operations for operations, _ in requests])
        except Exception as error:
            self._leftovers = True
            for operations, future in requests:
                self._discard(operations)
                future.set_exception(error)
            return
        for (_, future), result in zip(requests, written, strict=True):
            future.set_result(result)

    def _discard(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Add) and operation.staged is not None:
                self.objects.discard(operation.staged)

    def _commit(self, requests: Sequence[Sequence[Operation]]) -> list[Written]:
        self._load()
        with storage_faults():
            adds = [operation for request in requests for operation in request if isinstance(operation, Add)]
            self.objects.adopt((add.sha256, add.staged, add.content) for add in adds)
            applied = self.record.apply(requests)
            self._info = applied.info
            self._follow(applied.change)
            for sha256 in applied.orphans:
                self.objects.remove(sha256)
        self._save_when_due()
        self._leftovers |= any(Outcome.MISSING in outcomes for outcomes in applied.outcomes)
        self._try_adopting()  # these may have been the last vectors that were missing, or the images without
        return [Written(outcomes, applied.info) for outcomes in applied.outcomes]

    def _follow(self, change: Change) -> None:
        if self._index is None or change.revision == self._index.view().revision:
            return
        try:
            self._index.apply(change)
        except BaseException:
            self._index = None  # it has missed something, so it is loaded again before it is used again
            raise
        self._unsaved += len(change.added) + len(change.removed)

    def _save_when_due(self) -> None:
        busy = self._saving is not None and not self._saving.done()
        if self._index is None or busy or self._unsaved < max(_SNAPSHOT_MIN, self._info.image_count // _SNAPSHOT_SHARE):
            return
        self._unsaved = 0
        self._saving = self._background.submit(save_index, self._folder / INDEX, self._info, self._index.view())

    def _finish(self, save: bool) -> None:
        with self._pending_lock:
            for _, future in self._pending:
                future.set_exception(gone(self.name))
            self._pending.clear()
        if self._saving is not None:
            self._saving.result()
        if save and self._index is not None and self._unsaved:
            save_index(self._folder / INDEX, self._info, self._index.view())
        self.record.close()
        if not self._dirty and not self._leftovers:
            (self._folder / CLEAN).touch()
