"""All collections of a tenant: found at start, made and deleted so that a crash leaves either all or nothing of one.

A new collection is built under a hidden name and renamed; a deleted one is renamed into `trash/` and then removed.
What a crash left of either is removed at the next start.
"""

import secrets
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from services.embedder.collections.collection import CLEAN, RECORD, Collection
from services.embedder.collections.faults import gone, storage_faults
from services.embedder.collections.lock import FolderLock
from services.embedder.collections.record import Record
from services.embedder.files import sync_folder
from warmer.errors import AlreadyExists, FailedPrecondition, WarmerError
from warmer.names import collection_name

_log = structlog.get_logger(__name__)

TENANT = "default"
_UNFINISHED = "."  # no collection id starts with it


class Catalog:
    """The collections under one data folder. Methods may be called from any thread; all but `get` and `list` block."""

    def __init__(self, data_dir: Path) -> None:
        """Claims the folder. Raises FailedPrecondition (DATA_DIR_IN_USE) when another embedder has it."""
        tenant = data_dir / "tenants" / TENANT
        self._folder, self._trash = tenant / "collections", tenant / "trash"
        with storage_faults():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._trash.mkdir(exist_ok=True)
            self._claim = FolderLock(tenant)
        self._changing = threading.Lock()
        self._open: dict[str, Collection] = {}
        self._broken: dict[str, WarmerError] = {}
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        self._model, self._dimensions = "", 0

    def open(self, model: str, dimensions: int) -> None:
        """Opens all collections for a server that runs this model, and loads their indexes. One that fails does not
        stop the others: whoever asks for it is told."""
        self._model, self._dimensions = model, dimensions
        with storage_faults():
            self._clean()
            ids = sorted(path.name for path in self._folder.iterdir() if path.is_dir())
        for id in ids:
            try:
                self._open[id] = self._opened(id)
            except WarmerError as error:
                _log.exception("collection cannot be opened", collection=id, reason=error.reason)
                self._broken[id] = error
        for id, loading in [(id, collection.load()) for id, collection in self._open.items()]:
            failure = loading.exception()
            if failure is not None:
                _log.error("index cannot be loaded", collection=id, error=str(failure))

    def _opened(self, id: str) -> Collection:
        return Collection(self._folder / id, self._model, self._dimensions, self._background)

    def _clean(self) -> None:
        leftovers = [*self._trash.iterdir(), *self._folder.glob(_UNFINISHED + "*")]
        for path in leftovers:
            shutil.rmtree(path)
        if leftovers:
            _log.info("removed what an interrupted create or delete left", folders=len(leftovers))

    @property
    def count(self) -> int:
        """Number of open collections."""
        return len(self._open)

    def get(self, id: str) -> Collection:
        """An open collection. Raises NotFound (COLLECTION_NOT_FOUND), or why it could not be opened."""
        collection = self._open.get(id)
        if collection is not None:
            return collection
        if id in self._broken:
            raise self._broken[id]
        raise gone(collection_name(id))

    def list(self, after: str, limit: int) -> list[Collection]:
        """At most `limit` collections with a larger id, by id."""
        items = sorted(self._open.items())
        return [collection for id, collection in items if id > after][:limit]

    def create(self, id: str, description: str) -> Collection:
        """Makes an empty collection for the server's model. Raises AlreadyExists (COLLECTION_EXISTS)."""
        name = collection_name(id)
        with self._changing, storage_faults():
            if (self._folder / id).exists():
                raise AlreadyExists(
                    f"there is a collection {name} already",
                    reason="COLLECTION_EXISTS",
                    resource=name,
                    hint="use it, delete it, or take another id",
                )
            unfinished = self._folder / f"{_UNFINISHED}{id}-{secrets.token_hex(4)}"
            unfinished.mkdir()
            Record.create(unfinished / RECORD, id, self._model, self._dimensions, description)
            (unfinished / CLEAN).touch()
            sync_folder(unfinished)
            unfinished.rename(self._folder / id)
            sync_folder(self._folder)
            collection = self._opened(id)
            self._open[id] = collection
        collection.load()
        return collection

    def delete(self, id: str) -> None:
        """Deletes a collection with its images, also one that cannot be opened. Raises NotFound."""
        with self._changing:
            collection = self._open.pop(id, None)
            if collection is not None:
                collection.close(save=False)
            elif id not in self._broken:
                raise gone(collection_name(id))
            elif self._broken[id].reason == "DATA_DIR_IN_USE":
                raise self._broken[id]
            trash = self._trash / f"{id}-{secrets.token_hex(4)}"
            with storage_faults():
                (self._folder / id).rename(trash)
                sync_folder(self._folder)
            self._broken.pop(id, None)
        # Deleted is deleted; a file that cannot be removed now is tried again at the next start.
        shutil.rmtree(trash, onerror=lambda *failure: _log.warning("trash stays for now", error=str(failure[2][1])))

    def close(self) -> None:
        """Closes all collections and gives the folder back."""
        with self._changing:
            for collection in self._open.values():
                collection.close()
            self._open.clear()
        self._background.shutdown(wait=True)
        self._claim.release()

    def require_dimensions(self, expected: int) -> None:
        """Raises FailedPrecondition (DIMENSION_MISMATCH) when a caller expects vectors of another length."""
        if expected not in (0, self._dimensions):
            raise FailedPrecondition(
                f"{expected} dimensions are expected, the server's model {self._model} has {self._dimensions}",
                reason="DIMENSION_MISMATCH",
                field="expected_dimensions",
                hint="use a server with another model, or do not set expected_dimensions",
            )
