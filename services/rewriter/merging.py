"""Rewrites from requests to results, without gRPC: whether to ask the model, what, and whether to believe it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from services.common.joining import plain_join
from services.rewriter.guard import Rejection, judge
from services.rewriter.models.base import Generation, LanguageModel, Request
from services.rewriter.prompts import MAX_PART_CHARS, Prompt
from services.rewriter.words import words
from warmer.errors import WarmerError


@dataclass(frozen=True)
class Texts:
    """What is to be merged. Irrelevant captions say what to avoid; the plain join leaves them out."""

    query: str
    captions: tuple[str, ...] = ()
    irrelevant: tuple[str, ...] = ()
    comment: str = ""

    @property
    def joined(self) -> str:
        """The plain join."""
        return plain_join(self.query, self.captions, self.comment)


@dataclass(frozen=True)
class Job:
    """Texts to be merged for one caller.

    `on_text` gets the answer piece by piece, its opening included; `should_stop` is asked while it is written, and
    True ends it where it is. Both are called from the thread that merges.
    """

    texts: Texts
    on_text: Callable[[str], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class Merged:
    """The query to search with. `rejection` says why it is the plain join and not what the model wrote."""

    text: str
    rejection: Rejection | None = None
    rejected_text: str = ""
    tokens: int = 0


# Two requests that have nothing in common but the prompt around them.
_SAMPLES = (Texts("a dog on grass", ("a brown dog runs",), comment="it is black"), Texts("two men", ("a red boat",)))


@dataclass(frozen=True)
class Merger:
    """A language model with its prompt and the limits of an answer. `most_new_tokens` caps what the prompt asks for."""

    model: LanguageModel
    prompt: Prompt
    most_new_tokens: int
    max_words: int

    @property
    def max_new_tokens(self) -> int:
        """Tokens that an answer may have."""
        return min(self.prompt.max_new_tokens, self.most_new_tokens)

    def merge_all(self, jobs: Sequence[Job]) -> list[Merged | WarmerError]:
        """Asks the model for a batch, in one go, and gives the plain join where its words cannot be used.

        Jobs of which the model need not be asked are settled without it. A WarmerError is of its job alone; raises
        what the model raises. Blocks; not thread-safe.
        """
        settled = [self._settled(job.texts) for job in jobs]
        asked = [job for job, merged in zip(jobs, settled, strict=True) if merged is None]
        written = self._written(asked) if asked else iter(())
        return [merged if merged is not None else next(written) for merged in settled]

    def warm(self) -> None:
        """Runs the model once, which also leaves what all prompts begin with in its cache. Raises as the model does."""
        chats = [self.prompt.messages(t.query, t.captions, t.irrelevant, t.comment) for t in _SAMPLES]
        self.model.warm(chats)

    def close(self) -> None:
        """Closes the model's connections, if it has any. Blocks."""
        close = getattr(self.model, "close", None)
        if close is not None:
            close()

    def _settled(self, texts: Texts) -> Merged | None:
        """The result where the model has nothing to do."""
        if not self._has_something_to_say(texts):
            return Merged(texts.query)
        opening = self.prompt.opening(texts.query)
        if opening and (len(texts.query) > MAX_PART_CHARS or len(words(opening)) >= self.max_words):
            # The query would be cut, or fill the answer by itself: what was agreed upon before would be lost.
            return Merged(texts.joined, Rejection.TOO_LONG)
        return None

    def _has_something_to_say(self, texts: Texts) -> bool:
        avoid = texts.irrelevant if "irrelevant" in self.prompt.labels else ()
        return any(words(part) for part in (*texts.captions, *avoid, texts.comment))

    def _written(self, jobs: Sequence[Job]) -> Iterator[Merged | WarmerError]:
        openings = [self.prompt.opening(job.texts.query) for job in jobs]
        for job, opening in zip(jobs, openings, strict=True):
            if opening:
                job.on_text(opening)
        answers = self.model.generate([self._request(job) for job in jobs], max_new_tokens=self.max_new_tokens)
        for job, opening, answer in zip(jobs, openings, answers, strict=True):
            yield answer if isinstance(answer, WarmerError) else self._judged(job.texts, opening, answer)

    def _request(self, job: Job) -> Request:
        texts = job.texts
        chat = self.prompt.messages(texts.query, texts.captions, texts.irrelevant, texts.comment)
        return Request(chat, job.on_text, job.should_stop)

    def _judged(self, texts: Texts, opening: str, answer: Generation) -> Merged:
        verdict = judge(
            opening + answer.text,
            query=texts.query,
            captions=(*texts.captions, *texts.irrelevant),
            comment=texts.comment,
            prompt_texts=self.prompt.texts(),
            max_words=self.max_words,
            finished=answer.finished,
        )
        if verdict.rejection is None:
            return Merged(verdict.text, tokens=answer.tokens)
        return Merged(texts.joined, verdict.rejection, verdict.text, answer.tokens)
