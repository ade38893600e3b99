"""One rewrite from request to result, without gRPC: whether to ask the model, what, and whether to believe it."""

from collections.abc import Callable
from dataclasses import dataclass

from services.common.joining import plain_join
from services.rewriter.guard import Rejection, judge
from services.rewriter.models.base import LanguageModel
from services.rewriter.prompts import MAX_PART_CHARS, Prompt
from services.rewriter.words import words


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
class Merged:
    """The query to search with. `rejection` says why it is the plain join and not what the model wrote."""

    text: str
    rejection: Rejection | None = None
    rejected_text: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class Merger:
    """A language model with its prompt and the limits of an answer."""

    model: LanguageModel
    prompt: Prompt
    max_new_tokens: int
    max_words: int

    def merge(self, texts: Texts, on_text: Callable[[str], None], should_stop: Callable[[], bool]) -> Merged:
        """Asks the model, and falls back to the plain join when its words cannot be used. Blocks; not thread-safe.

        `on_text` gets the answer piece by piece, its opening included. Raises what the model raises.
        """
        if not self._has_something_to_say(texts):
            return Merged(texts.query)
        opening = self.prompt.opening(texts.query)
        if opening and (len(texts.query) > MAX_PART_CHARS or len(words(opening)) >= self.max_words):
            # The query would be cut, or fill the answer by itself: what was agreed upon before would be lost.
            return Merged(texts.joined, Rejection.TOO_LONG)
        if opening:
            on_text(opening)
        messages = self.prompt.messages(texts.query, texts.captions, texts.irrelevant, texts.comment)
        written = self.model.generate(
            messages, max_new_tokens=self.max_new_tokens, on_text=on_text, should_stop=should_stop
        )
        return self._judged(texts, opening + written.text, written.tokens, written.finished)

    def warm(self) -> None:
        """Runs the model once, which also leaves the prompt's examples in its cache."""
        texts = Texts("a dog on grass", ("a brown dog runs",), comment="it is black")
        messages = self.prompt.messages(texts.query, texts.captions, texts.irrelevant, texts.comment)
        self.model.generate(messages, max_new_tokens=2, on_text=lambda _: None, should_stop=lambda: False)

    def _has_something_to_say(self, texts: Texts) -> bool:
        avoid = texts.irrelevant if "irrelevant" in self.prompt.labels else ()
        return any(words(part) for part in (*texts.captions, *avoid, texts.comment))

    def _judged(self, texts: Texts, raw: str, tokens: int, finished: bool) -> Merged:
        verdict = judge(
            raw,
            query=texts.query,
            captions=(*texts.captions, *texts.irrelevant),
            comment=texts.comment,
            prompt_texts=self.prompt.texts(),
            max_words=self.max_words,
            finished=finished,
        )
        if verdict.rejection is None:
            return Merged(verdict.text, tokens=tokens)
        return Merged(texts.joined, verdict.rejection, verdict.text, tokens)
