"""Asks a model on an OpenAI-compatible server (vLLM, SGLang, ...), through OpenAI's own client.

A batch of questions is sent at once and answered as streams, each with its own fate: what is wrong with one is its
error alone, and a caller who goes away closes its stream, whereupon the server stops writing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from services.common.openai_errors import NotUnderstood, understanding
from services.common.openai_setup import Asker, client_of
from services.common.settings import Settings
from services.common.visible import VisibleText
from warmer.errors import ResourceExhausted, Unavailable, WarmerError

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

_FIRST_WAIT_S = 0.5  # before the first retry; doubled for each further one
_SETTLE_S = 1.0
_LOOK_S = 0.05  # how often callers are asked whether they still want their answer

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Question:
    """A chat in OpenAI's format. `on_text` gets each further piece of the answer; `should_stop` ends it. Both are
    called from the thread that asks."""

    messages: Sequence[Any]
    on_text: Callable[[str], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Answer:
    """The first line of what the model wrote, how many tokens it wrote, and whether it came to an end by itself."""

    text: str
    tokens: int
    finished: bool


@dataclass
class _Writing:
    """An answer that is being written."""

    visible: VisibleText = field(default_factory=VisibleText)
    pieces: int = 0
    usage: int = 0
    reason: str = ""

    def restart(self) -> None:
        """Forgets what an attempt that failed has left."""
        self.visible, self.pieces, self.usage, self.reason = VisibleText(), 0, 0, ""

    def answer(self) -> Answer:
        # A stream that was closed early never says how many tokens it took; servers send one in a piece, mostly.
        finished = self.visible.complete or self.reason not in ("", "length")
        return Answer(self.visible.text, self.usage or self.pieces, finished)


class ModelServer:
    """One model of a server. Its methods block, and are not thread-safe: one call at a time.

    `model` is its name as served. `max_tokens` is the longest prompt and answer together, 0 where the server does not
    say (vLLM and SGLang do).
    """

    def __init__(self, settings: Settings, service: Asker) -> None:
        """Makes the client; nothing is sent. Raises FailedPrecondition as `connect`, without the server's part."""
        self.model: str = getattr(settings, f"{service}_model")
        self.max_tokens = 0
        self._retries = settings.openai_retries
        self._concurrency = settings.openai_concurrency
        self._timeout_s = settings.openai_timeout_s
        self._client, self._errors = client_of(settings, service)
        # The loop lives as long as the client, whose open connections belong to it.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    @classmethod
    def connect(cls, settings: Settings, service: Asker) -> ModelServer:
        """The server that the settings of `service` name, once it was asked what it serves.

        Raises FailedPrecondition (MODEL_SERVER_NOT_SET, BAD_SETTING, PACKAGE_NOT_INSTALLED, MODEL_SERVER_REFUSED,
        MODEL_SERVER_BAD_ANSWER, MODEL_NOT_FOUND, or MODEL_NOT_SET where no model is named and there is a choice),
        Unavailable (MODEL_SERVER_UNREACHABLE, MODEL_SERVER_FAILED) or DeadlineExceeded (MODEL_SERVER_TIMEOUT).
        """
        server = cls(settings, service)
        try:
            server._run(server._choose())
        except BaseException:
            server.close()
            raise
        _log.info("model server", url=server._errors.url, model=server.model, max_tokens=server.max_tokens)
        return server

    def ask(self, questions: Sequence[Question], *, max_new_tokens: int) -> list[Answer | WarmerError]:
        """Answers in order, each the first line that the model writes, greedily; or why there is none.

        An answer that was stopped is what was written until then. Errors: InvalidArgument (PROMPT_TOO_LONG,
        MODEL_SERVER_REJECTED), ResourceExhausted (MODEL_SERVER_BUSY, with `retry_after_s`), and those of `connect`.
        """
        return self._run(self._ask(questions, max_new_tokens))

    def close(self) -> None:
        """Closes connections and event loop."""
        self._run(self._client.close())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs the loop until `work` is done, and what it left behind."""
        return self._runner.run(_settled(work))

    async def _choose(self) -> None:
        """Finds the model among those that the server lists. One that lists none at all (as `transformers serve` does
        with a folder) is believed: the first call will tell."""
        served = await self._tried(self._served, lambda: True)
        if not self.model:
            if len(served) != 1:
                raise self._errors.not_chosen(list(served))
            self.model = next(iter(served))
        elif served and self.model not in served:
            raise self._errors.not_served(self.model, list(served))
        self.max_tokens = served.get(self.model, 0)

    async def _served(self) -> dict[str, int]:
        """Names of the models that the server lists, with their longest texts in tokens (0: not said)."""
        with understanding():
            page = await self._client.models.list()
            return {str(model.id): int((model.model_extra or {}).get("max_model_len") or 0) for model in page.data}

    async def _ask(self, questions: Sequence[Question], max_new_tokens: int) -> list[Answer | WarmerError]:
        limit = asyncio.Semaphore(self._concurrency)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answer(question, max_new_tokens, limit)) for question in questions]
        return [task.result() for task in tasks]

    async def _answer(self, question: Question, max_new_tokens: int, limit: asyncio.Semaphore) -> Answer | WarmerError:
        """One answer, written until it ends or nobody wants it any more."""
        writing = _Writing()

        async def write() -> None:
            await self._write(question, max_new_tokens, writing)

        async with limit:
            # Text that was passed on cannot be taken back, so what breaks after that is not tried again.
            task = asyncio.ensure_future(self._tried(write, lambda: not writing.visible.text))
            try:
                while not task.done():
                    if question.should_stop():
                        task.cancel()
                    await asyncio.wait({task}, timeout=_LOOK_S)
            finally:
                task.cancel()
        failure = None if task.cancelled() else task.exception()
        if failure is None:
            return writing.answer()
        if isinstance(failure, WarmerError):
            return failure
        raise failure

    async def _write(self, question: Question, max_new_tokens: int, writing: _Writing) -> None:
        """Streams one answer into `writing`, until its first line is complete."""
        import openai

        writing.restart()
        try:
            stream = await self._client.chat.completions.create(
                model=self.model,
                messages=list(question.messages),
                max_tokens=max_new_tokens,  # its newer name, max_completion_tokens, is not known everywhere
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        except openai.NotFoundError:
            raise self._errors.not_served(self.model, list(await self._served())) from None
        async with aclosing(_pieces(stream, writing)) as pieces:
            async for piece in pieces:
                if shown := writing.visible.feed(piece):
                    question.on_text(shown)
                if writing.visible.complete:
                    return
        if rest := writing.visible.end():
            question.on_text(rest)
        if not writing.reason and not writing.pieces:
            raise NotUnderstood("its answer has neither text nor an end")

    async def _tried(self, call: Callable[[], Awaitable[T]], repeatable: Callable[[], bool]) -> T:
        """What `call` gives, all attempts together within the time of a call. Raises WarmerError.

        The client's own retries are not used: they wait for as long as two minutes when a server says so, and nobody
        waits for that; here the caller is told instead.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        left = self._retries
        wait = _FIRST_WAIT_S
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await call()
            except Exception as error:  # of() says what each is
                failure = self._errors.of(error)
                pause = max(wait, failure.retry_after_s or 0.0) * random.uniform(1.0, 1.25)  # noqa: S311 - no secret
                passes = isinstance(failure, (Unavailable, ResourceExhausted)) and repeatable()
                if not (left and passes and asyncio.get_running_loop().time() + pause < deadline):
                    raise failure from error
            _log.debug("asking the model server again", reason=failure.reason, pause_s=round(pause, 2))
            await asyncio.sleep(pause)
            left -= 1
            wait *= 2


async def _settled(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. The client leaves generators of streams half read; they are ended in tasks of their own, which
    would hang when the loop stands still."""
    try:
        return await work
    finally:
        await asyncio.sleep(0)  # those tasks are made now
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=_SETTLE_S)


async def _pieces(stream: openai.AsyncStream[Any], writing: _Writing) -> AsyncGenerator[str, None]:
    """The pieces of text of a stream; what else it says goes into `writing`. Closes the stream, also when left early.

    Thoughts that the server itself separates (`reasoning_content`) are not text.
    """
    async with stream:
        chunks = aiter(stream)
        while True:
            text = ""
            with understanding():
                chunk = await anext(chunks, None)
                if chunk is None:
                    return
                for choice in chunk.choices or ():
                    text += choice.delta.content or ""
                    writing.reason = choice.finish_reason or writing.reason
                if chunk.usage:
                    writing.usage = chunk.usage.completion_tokens or 0
            if text:
                writing.pieces += 1
                yield text
