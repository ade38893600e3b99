"""The rewriter's gRPC side: checks requests, hands them to the model in batches, streams its words, sends one rewrite.

Calls that come close together share a batch; each streams, fails and is cancelled by itself.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from services.common.batcher import Batcher
from services.common.settings import Settings
from services.rewriter.guard import Rejection
from services.rewriter.merging import Job, Merged, Merger, Texts
from warmer.errors import InvalidArgument, WarmerError
from warmer.v1 import common_pb2, rewriter_pb2_grpc
from warmer.v1 import rewriter_pb2 as pb

Context = Any  # the grpc.aio.ServicerContext; nothing here uses it

MAX_QUERY_CHARS = 10_000
MAX_TEXT_CHARS = 4_000
MAX_CAPTIONS = 64
JOIN_ID = "plain-join"

_REASONS = {
    None: pb.Rewrite.FALLBACK_REASON_UNSPECIFIED,
    Rejection.EMPTY: pb.Rewrite.FALLBACK_REASON_EMPTY,
    Rejection.TOO_LONG: pb.Rewrite.FALLBACK_REASON_TOO_LONG,
    Rejection.REFUSAL: pb.Rewrite.FALLBACK_REASON_REFUSAL,
    Rejection.PROMPT_LEAK: pb.Rewrite.FALLBACK_REASON_PROMPT_LEAK,
    Rejection.DROPPED_COMMENT: pb.Rewrite.FALLBACK_REASON_DROPPED_COMMENT,
}


class RewriterServicer(rewriter_pb2_grpc.RewriterServiceServicer):
    """Rewrites queries in batches on a worker thread; a bounded number wait. Without a Merger it joins."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._merger: Merger | None = None
        self._batcher: Batcher[Job, Merged] | None = None

    def attach(self, merger: Merger) -> None:
        """From now on the model of `merger` is asked."""
        self._merger = merger
        self._batcher = Batcher(
            self._run,
            name="rewriter",
            max_batch=self._settings.rewriter_batch,
            max_wait_s=self._settings.rewriter_wait_s,
            max_queue=self._settings.rewriter_queue,
        )

    async def close(self) -> None:
        """Fails what waits, lets the worker thread end, and closes the model's connections, if it has any."""
        if self._batcher is not None:
            await self._batcher.close(drain=False)
        if self._merger is not None:
            await asyncio.to_thread(self._merger.close)

    async def GetModel(self, _request: common_pb2.GetModelRequest, _context: Context) -> common_pb2.Model:
        """The language model, or the plain join's name where no model is asked."""
        if self._merger is None:
            return common_pb2.Model(id=JOIN_ID, backend="join")
        model = self._merger.model
        return common_pb2.Model(
            id=model.id,
            backend=model.backend,
            prompt_version=self._merger.prompt.version,
            max_tokens=model.max_tokens,
            precision=model.precision,
            device=model.device,
        )

    async def Rewrite(self, request: pb.RewriteRequest, _context: Context) -> AsyncIterator[pb.RewriteResponse]:
        """See the proto. Raises InvalidArgument, ResourceExhausted (QUEUE_FULL) when too many wait, and what the model
        says of this request, such as FailedPrecondition (PROMPT_TOO_LONG).
        """
        texts = texts_of(request)
        if self._merger is None or self._batcher is None:
            yield pb.RewriteResponse(rewrite=_joined(texts))
            return
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        gone = threading.Event()
        job = Job(texts, lambda text: _hand_over(loop, pieces, text), gone.is_set)
        task = asyncio.create_task(self._batcher.submit(job))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield pb.RewriteResponse(text_delta=piece)
            yield pb.RewriteResponse(rewrite=self._rewrite(await task))
        finally:
            gone.set()  # the caller may have gone while the model writes
            task.cancel()

    def _run(self, jobs: list[Job]) -> Sequence[Merged | WarmerError]:
        """Runs on the worker thread."""
        assert self._merger is not None
        return self._merger.merge_all(jobs)

    def _rewrite(self, merged: Merged) -> pb.Rewrite:
        assert self._merger is not None
        return pb.Rewrite(
            text=merged.text,
            model=self._merger.model.id,
            prompt_version=self._merger.prompt.version,
            fell_back=merged.rejection is not None,
            fallback_reason=_REASONS[merged.rejection],
            rejected_text=merged.rejected_text,
            tokens=merged.tokens,
        )


def texts_of(request: pb.RewriteRequest) -> Texts:
    """What the request wants merged.

    Raises InvalidArgument (EMPTY_QUERY, TEXT_TOO_LONG or TOO_MANY_CAPTIONS).
    """
    if not request.query.strip():
        raise InvalidArgument(
            "the query is empty", reason="EMPTY_QUERY", field="query", hint="send the query that was last searched with"
        )
    _check_length(request.query, "query", MAX_QUERY_CHARS)
    _check_length(request.comment, "comment", MAX_TEXT_CHARS)
    groups = {"relevant_captions": request.relevant_captions, "irrelevant_captions": request.irrelevant_captions}
    for name, captions in groups.items():
        if len(captions) > MAX_CAPTIONS:
            raise InvalidArgument(
                f"there are {len(captions)} {name}",
                reason="TOO_MANY_CAPTIONS",
                field=name,
                hint=f"send at most {MAX_CAPTIONS}",
            )
        for index, caption in enumerate(captions):
            _check_length(caption, f"{name}[{index}]", MAX_TEXT_CHARS)
    return Texts(
        query=request.query.strip(),
        captions=tuple(request.relevant_captions),
        irrelevant=tuple(request.irrelevant_captions),
        comment=request.comment.strip(),
    )


def _check_length(text: str, name: str, most: int) -> None:
    if len(text) > most:
        raise InvalidArgument(
            f"{name} has {len(text):,} characters",
            reason="TEXT_TOO_LONG",
            field=name,
            hint=f"send at most {most:,}",
        )


def _joined(texts: Texts) -> pb.Rewrite:
    return pb.Rewrite(
        text=texts.joined,
        model=JOIN_ID,
        fell_back=True,
        fallback_reason=pb.Rewrite.FALLBACK_REASON_CONFIGURED,
    )


def _hand_over(loop: asyncio.AbstractEventLoop, pieces: "asyncio.Queue[str | None]", text: str) -> None:
    """From the worker thread to the event loop; in order, and before the result, which takes the same way."""
    loop.call_soon_threadsafe(pieces.put_nowait, text)
