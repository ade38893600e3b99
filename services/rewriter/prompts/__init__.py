"""Prompts are data files with a version, because a changed prompt is a changed model: caches and studies name it.

A prompt instructs the model, or shows it a few finished merges as earlier turns of the chat (few-shot), or both, and
then asks for one more. What people and captioners wrote is data: it is stripped of whatever could end its turn or its
line, shortened, and put behind a label, in quotation marks where the prompt has them. So it cannot leave its place:
whatever it orders or pretends to be, only the words between the marks change.
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
# Chat-template and special tokens: <|...|> of ChatML, Llama 3, Phi, Cohere, DeepSeek and others, tags (Llama 2, Gemma,
# the <think> of many, <image> of LLaVA), and the brackets of Mistral, Llama 2 and BERT.
_TEMPLATE_TOKEN = re.compile(
    r"<\|.{0,64}?\|>|<<?/?[a-z_][\w.:-]{0,64}/?>?>|<\|+|\|+>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|IMG(?:_BREAK|_END)?"
    r"|AUDIO|BEGIN_AUDIO|THINK|PREFIX|MIDDLE|SUFFIX|BOS|EOS|PAD|UNK|CLS|SEP|MASK)\]",
    re.IGNORECASE,
)
_QUOTE = re.compile('["\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\u2036\u301d\u301e]')
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
    max_new_tokens: int
    """Tokens that an answer to this prompt needs at most; the setting of the same name may allow less."""
    quoted: bool
    """Whether what people and captioners wrote stands in quotation marks."""
    closing: str
    """The last line of every request, e.g. `New query:`; empty for none."""

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
        return [text for text in (self.system, self.closing) if text] + shots

    def _request(self, query: str, captions: Sequence[str], irrelevant: Sequence[str], comment: str) -> str:
        most = self.max_captions_with_comment if comment.strip() else self.max_captions
        parts = {"query": [query], "caption": captions, "irrelevant": irrelevant, "comment": [comment]}
        limits = {"caption": most, "irrelevant": most}
        lines = []
        for kind, texts in parts.items():
            if kind in self.labels:
                data = dict.fromkeys(filter(None, map(self._data, texts)))  # what is said twice is told once
                lines += [f"{self.labels[kind]}: {text}" for text in list(data)[: limits.get(kind)]]
        return "\n".join([*lines, self.closing] if self.closing else lines)

    def _data(self, text: str) -> str:
        """A text as it stands in the prompt; empty where nothing is left of it."""
        data = as_data(text).rstrip(" .,;:")
        if not (self.quoted and data):
            return data
        inside = _QUOTE.sub("'", data)
        return f'"{inside}"'


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
            examples=tuple(_example(item) for item in data.get("examples", ())),
            max_captions=int(data.get("max_captions", 1)),
            max_captions_with_comment=int(data.get("max_captions_with_comment", data.get("max_captions", 1))),
            begin_with_query=bool(data.get("begin_with_query", False)),
            max_new_tokens=int(data.get("max_new_tokens", 100)),
            quoted=bool(data.get("quoted", False)),
            closing=str(data.get("closing", "")).strip(),
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
