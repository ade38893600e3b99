"""What the rewriter asks of a language model, so that its servicer need not know which library runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Generation:
    """What a model wrote: the whole text, how many tokens it has, and whether the model ended it by itself."""

    text: str
    tokens: int
    finished: bool


class LanguageModel(Protocol):
    """A chat model that writes greedily. Not thread-safe: one call at a time."""

    id: str
    """Name and version or content hash."""
    backend: str
    """What loaded it, e.g. `compact`."""
    max_tokens: int
    """Longest prompt and answer together, in tokens."""

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Generation:
        """Answers a chat with one line.

        Args:
            messages: the chat; its last message is the person's.
            max_new_tokens: the answer ends here at the latest.
            on_text: gets each further piece of the answer, from the calling thread.
            should_stop: asked between tokens; True ends the answer where it is.
        """
        ...
