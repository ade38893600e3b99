"""What the rewriter asks of a language model, so that its servicer need not know which library runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

from warmer.errors import WarmerError


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


Chat = Sequence[Message]


def _ignore(_text: str) -> None:
    """For callers who want the answer at the end alone."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Request:
    """One chat to be answered with one line.

    The last message of `chat` is the person's, or the beginning of the answer: then the answer goes on from it.
    `on_text` gets each further piece of the answer; `should_stop` is asked between tokens, and True ends the answer
    where it is. Both are called from the thread that generates (or threads of its own).
    """

    chat: Chat
    on_text: Callable[[str], None] = _ignore
    should_stop: Callable[[], bool] = _never


@dataclass(frozen=True)
class Generation:
    """What a model wrote: the whole text, how many tokens it has, and whether the model ended it by itself."""

    text: str
    tokens: int
    finished: bool


class LanguageModel(Protocol):
    """A chat model that writes greedily. Not thread-safe: one call at a time.

    A model may have a method `close`, which is called once, at the end.
    """

    id: str
    """Name and version or content hash, and precision: what decides what it writes."""
    backend: str
    """What loaded it, e.g. `compact`."""
    precision: str
    """Number format of the weights, e.g. `bf16`; empty where it is not known."""
    device: str
    """Where it computes, e.g. `cuda:0`; empty where it is not known."""
    max_tokens: int
    """Longest prompt and answer together, in tokens; 0 where it is not known."""

    def warm(self, chats: Sequence[Chat]) -> None:
        """Runs once before the first request. What `chats` (two or more) begin with alike, all later ones will too.

        Raises WarmerError where the model cannot answer.
        """
        ...

    def generate(self, requests: Sequence[Request], *, max_new_tokens: int) -> list[Generation | WarmerError]:
        """Answers a batch of chats, each with one line, in order.

        A WarmerError in place of an answer is of that chat alone; what is raised concerns all of them. An answer
        ends after `max_new_tokens` at the latest.
        """
        ...
