"""Decodes untrusted image bytes in a small pool of processes, so that a bomb or a crash hurts one item alone.

The work itself is in `decode_worker.py`. Here are the pool, its limits, and the errors. Workers come from a fork server
that is started with the Decoder; build the Decoder before torch and gRPC are busy.
"""

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import structlog
from pebble import ProcessExpired, ProcessPool

from services.common import decode_worker
from services.common.decode_worker import Resize
from services.common.settings import Settings
from warmer.errors import InvalidArgument, Unavailable, WarmerError

__all__ = ["Decoded", "Decoder", "Resize"]

_log = structlog.get_logger(__name__)
T = TypeVar("T")

# A chunk is one task for a worker: large enough that the hand-over costs little, small enough that all get some.
_CHUNK_ITEMS = 16
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Decoded:
    """`pixels` is (H, W, 3) uint8 RGB after the resize; `width` and `height` are those of the upright original."""

    pixels: np.ndarray
    width: int
    height: int
    media_type: str


class Decoder:
    """A pool of decoding processes. Its methods may be called concurrently from one event loop.

    Errors are InvalidArgument with reason EMPTY_FILE, NOT_AN_IMAGE, DAMAGED_IMAGE, IMAGE_TOO_LARGE (bytes or pixels),
    DECODE_TIMEOUT or DECODER_CRASHED, and Unavailable (SHUTTING_DOWN) after `close`.
    """

    def __init__(self, settings: Settings) -> None:
        """Starts the worker processes; takes about a tenth of a second."""
        self._max_bytes = settings.max_image_bytes
        self._max_pixels = settings.max_image_pixels
        self._timeout_s = settings.decode_timeout_s
        self._workers = settings.decode_workers
        self._lock = threading.Lock()
        self._closed = False
        # One task running and one in the pipe for each worker; further callers wait here, where they can give up.
        self._slots = asyncio.Semaphore(2 * self._workers)
        self._running: set[asyncio.Task[Any]] = set()
        self._pool = self._new_pool()

    async def decode(self, data: bytes, resize: Resize) -> Decoded:
        """Decodes and resizes one image file. Raises the errors of the class."""
        result = (await self.decode_many([data], resize))[0]
        if isinstance(result, WarmerError):
            raise result
        return result

    async def decode_many(self, files: Sequence[bytes], resize: Resize) -> list[Decoded | WarmerError]:
        """Decodes and resizes files together, which costs less per file; one result or error each, in order."""
        results: list[Decoded | WarmerError | None] = [self._refused(data) for data in files]
        good = [index for index, result in enumerate(results) if result is None]
        chunks = self._chunks(good, files)
        outcomes = await asyncio.gather(*(self._decode_chunk([files[i] for i in chunk], resize) for chunk in chunks))
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            for index, result in zip(chunk, outcome, strict=True):
                results[index] = result
        return [result for result in results if result is not None]

    async def thumbnail(self, data: bytes, max_edge: int) -> bytes:
        """The image as JPEG bytes, upright, its longer edge at most `max_edge` pixels. Raises as the class says."""
        refused = self._refused(data)
        if refused is not None:
            raise refused
        result = await self._call(decode_worker.thumbnail, data, max_edge, self._max_pixels)
        if isinstance(result, decode_worker.Failure):
            raise _error(result)
        return result

    async def close(self) -> None:
        """Stops the workers; what runs fails with Unavailable (SHUTTING_DOWN)."""
        with self._lock:
            self._closed = True
        await asyncio.to_thread(_stop, self._pool)
        await asyncio.gather(*self._running, return_exceptions=True)

    def _refused(self, data: bytes) -> WarmerError | None:
        if not data:
            return InvalidArgument("the image file is empty", reason="EMPTY_FILE", hint="check how it was copied")
        if len(data) > self._max_bytes:
            return InvalidArgument(
                f"the image file has {len(data):,} bytes; at most {self._max_bytes:,} are allowed",
                reason="IMAGE_TOO_LARGE",
                hint="scale it down, or raise WARMER_MAX_IMAGE_BYTES",
            )
        return None

    def _chunks(self, indexes: list[int], files: Sequence[bytes]) -> list[list[int]]:
        """Splits indexes into chunks of bounded count and bytes, at least one for each worker if there are enough."""
        most = min(_CHUNK_ITEMS, -(-len(indexes) // self._workers))
        chunks: list[list[int]] = []
        size = 0
        for index in indexes:
            if not chunks or len(chunks[-1]) >= most or size + len(files[index]) > _CHUNK_BYTES:
                chunks.append([])
                size = 0
            chunks[-1].append(index)
            size += len(files[index])
        return chunks

    async def _decode_chunk(self, files: list[bytes], resize: Resize) -> list[Decoded | WarmerError]:
        try:
            results = await self._call(decode_worker.decode_chunk, files, resize, self._max_pixels)
        except InvalidArgument as error:
            if len(files) == 1:
                return [error]
            # One of them crashed the worker or took too long; one by one, only that one fails.
            alone = await asyncio.gather(*(self._decode_chunk([data], resize) for data in files))
            return [result for part in alone for result in part]
        return [_outcome(result) for result in results]

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        """Runs `function` in a worker. A caller that gives up while it runs leaves the worker alone: stopping it would
        cost a new process."""
        await self._slots.acquire()
        task = asyncio.create_task(self._hold(function, *args))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen, for the caller may have gone

    async def _hold(self, function: Callable[..., T], *args: object) -> T:
        try:
            try:
                return await self._schedule(function, *args)
            except BrokenProcessPool:
                return await self._schedule(function, *args)  # in the new pool
        except TimeoutError:
            raise _timed_out(self._timeout_s) from None
        except (ProcessExpired, BrokenProcessPool) as error:
            _log.warning("decoder crashed", error=str(error))
            raise _crashed() from error
        finally:
            self._slots.release()

    async def _schedule(self, function: Callable[..., T], *args: object) -> T:
        pool = self._pool
        try:
            future = pool.schedule(function, args=args, timeout=self._timeout_s)
            result: T = await asyncio.wrap_future(future)
        except ProcessExpired:
            self._check_open()
            raise
        except (BrokenProcessPool, RuntimeError, asyncio.CancelledError) as error:
            self._check_open()
            if isinstance(error, asyncio.CancelledError):
                raise
            # pebble gives a pool up when a worker dies that had nothing to do.
            await asyncio.to_thread(self._renew, pool)
            raise BrokenProcessPool("the pool of decoders broke") from error
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the decoder is shutting down", reason="SHUTTING_DOWN", hint="try again") from None

    def _renew(self, broken: ProcessPool) -> None:
        with self._lock:
            if self._pool is not broken or self._closed:
                return  # another call was first
            _log.warning("decoder pool restarted")
            self._pool = self._new_pool()
        _stop(broken)

    def _new_pool(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=self._workers,
            initializer=decode_worker.prepare,
            initargs=(self._max_pixels,),
            context=_context(),
        )
        if not pool.active:  # asking starts it
            raise Unavailable("the decoding processes do not start", reason="DECODER_CRASHED")
        return pool


def _context() -> Any:
    """Fork server where there is one: its children start in milliseconds and inherit neither gRPC nor torch."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([decode_worker.__name__])
    return context


def _stop(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


def _outcome(result: decode_worker.Pixels | decode_worker.Failure) -> Decoded | WarmerError:
    if isinstance(result, decode_worker.Failure):
        return _error(result)
    return Decoded(result.array, result.width, result.height, result.media_type)


def _error(failure: decode_worker.Failure) -> WarmerError:
    return InvalidArgument(failure.message, reason=failure.reason, hint=failure.hint)


def _timed_out(seconds: float) -> WarmerError:
    return InvalidArgument(
        f"decoding the image took longer than {seconds:g} s",
        reason="DECODE_TIMEOUT",
        hint="scale it down, or raise WARMER_DECODE_TIMEOUT_S",
    )


def _crashed() -> WarmerError:
    return InvalidArgument(
        "the process that decoded the image died", reason="DECODER_CRASHED", hint="the file may be damaged"
    )
