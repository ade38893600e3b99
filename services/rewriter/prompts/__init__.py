"""Prompts are data files with a version, because a changed prompt is a changed model: caches and studies name it.

A prompt shows the model a few finished merges as earlier turns of the chat (few-shot) and then asks for one more. What
people and captioners wrote is data: it is stripped of whatever could end its turn, shortened, and put behind a label.
"""

import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.rewriter.models.base import Message
from warmer.errors import FailedPrecondition

_FOLDER = Path(__file__).parent
# Chat-template and special tokens of the common families: ChatML, Llama 2 and 3, Mistral, Gemma, Phi.
_TEMPLATE_TOKEN = re.compile(
    r"<\|.{0,64}?\|>|</?s>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|<\|+|\|+>",
    re.IGNORECASE,
)
MAX_PART_CHARS = 600


def as_data(text: str, max_chars: int = MAX_PART_CHARS) -> str:
    """One line that cannot leave its place in the prompt: no control characters, no chat-template tokens, capped.

    Cut at a word boundary where one is near. Applied until nothing changes, so that no token can be hidden in another.
    """
    text = unicodedata.normalize("NFKC", text)
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    before = None
    while text != before:
        before, text = text, _TEMPLATE_TOKEN.sub(" ", text)
    text = " ".join(text.split())
    if len(text) <= max_chars:
        return text
    cut = text[:max_chars]
    return cut.rsplit(" ", 1)[0] if " " in cut[-40:] else cut


@dataclass(frozen=True)
class Example:
    """One finished merge."""

    query: str
    captions: tuple[str, ...]
    irrelevant: tuple[str, ...]
    comment: str
    rewrite: str


@dataclass(frozen=True)
class Prompt:
    """An instruction, labels and examples; `messages` makes a chat of them."""

    version: str
    system: str
    labels: Mapping[str, str]
    examples: tuple[Example, ...]
    max_captions: int
    """Captions that the model is told when there is no comment."""
    max_captions_with_comment: int
    """Captions that the model is told beside a comment: small models copy the caption and lose the comment."""
    begin_with_query: bool
    """Whether the answer is begun for the model with the query, which it then goes on writing."""

    def messages(
        self, query: str, captions: Sequence[str] = (), irrelevant: Sequence[str] = (), comment: str = ""
    ) -> list[Message]:
        """The chat that asks for one rewrite.

        Its last message is the request, or the beginning of the answer (see `opening`) where the prompt gives one.
        """
        chat: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for shot in self.examples:
            asked = self._request(shot.query, shot.captions, shot.irrelevant, shot.comment)
            chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": shot.rewrite}]
        chat.append({"role": "user", "content": self._request(query, captions, irrelevant, comment)})
        begun = self.opening(query)
        return [*chat, {"role": "assistant", "content": begun}] if begun else chat

    def opening(self, query: str) -> str:
        """How the answer begins before the model writes: with the query, or with nothing."""
        return as_data(query).rstrip(" .,;:") if self.begin_with_query else ""

    def texts(self) -> list[str]:
        """Everything that the prompt says by itself, so that the guard knows it again."""
        shots = [
            text for s in self.examples for text in (s.query, *s.captions, *s.irrelevant, s.comment, s.rewrite) if text
        ]
        return [self.system, *shots]

    def _request(self, query: str, captions: Sequence[str], irrelevant: Sequence[str], comment: str) -> str:
        most = self.max_captions_with_comment if comment.strip() else self.max_captions
        lines = [("query", query)]
        lines += [("caption", caption) for caption in captions[:most]]
        if "irrelevant" in self.labels:
            lines += [("irrelevant", caption) for caption in irrelevant[:most]]
        lines.append(("comment", comment))
        data = ((self.labels[kind], as_data(text).rstrip(" .,;:")) for kind, text in lines)
        return "\n".join(f"{label}: {text}" for label, text in data if text)


def load_prompt(name: str) -> Prompt:
    """The prompt in the data file `<name>.toml` of this folder, e.g. `compact.v1`.

    Raises FailedPrecondition (reason PROMPT_NOT_FOUND or BAD_PROMPT).
    """
    path = _FOLDER / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.toml")))
        raise FailedPrecondition(f"there is no prompt {name!r}", reason="PROMPT_NOT_FOUND", hint=f"known: {known}")
    return read_prompt(path)


def read_prompt(path: Path) -> Prompt:
    """The prompt in a TOML file. Raises FailedPrecondition (reason BAD_PROMPT)."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Prompt(
            version=str(data["version"]),
            system=str(data.get("system", "")).strip(),
            labels={str(kind): str(label) for kind, label in data["labels"].items()},
            examples=tuple(_example(item) for item in data["examples"]),
            max_captions=int(data.get("max_captions", 1)),
            max_captions_with_comment=int(data.get("max_captions_with_comment", data.get("max_captions", 1))),
            begin_with_query=bool(data.get("begin_with_query", False)),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise FailedPrecondition(f"the prompt {path.name} cannot be read: {error!r}", reason="BAD_PROMPT") from error


def _example(item: dict[str, Any]) -> Example:
    return Example(
        query=item["query"],
        captions=tuple(item.get("captions", ())),
        irrelevant=tuple(item.get("irrelevant", ())),
        comment=item.get("comment", ""),
        rewrite=item["rewrite"],
    )
