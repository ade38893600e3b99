"""From a chat to the tokens of its prompt, by the template that a checkpoint brings, and with its quirks evened out.

Templates are programs, and differ: some have no place for an instruction, some put today's date into every prompt, some
make the model think aloud. What people wrote is text and nothing else, whatever tokens a model knows.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2

from services.common.checkpoints import Checkpoint
from services.rewriter.models.base import Chat, Message
from warmer.errors import FailedPrecondition

_THINK, _END_THINK = "<think>", "</think>"
_PROBE = "probe-7"
_HELLO = Message(role="user", content="hello")
# What templates are told besides the chat; each ignores what it does not know. Qwen and others would think aloud, and
# with today's date, as Llama 3.2 has it, the same request would get another answer tomorrow.
_OPTIONS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


class ChatTemplate:
    """A tokenizer's chat template. Raises ValueError where it cannot be used."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ValueError("there is none")
        self._tokenizer = tokenizer
        self._markup = _markup(tokenizer)
        try:
            self._render([_HELLO])
        except Exception as error:  # a template is a program, and can fail in any way
            raise ValueError(str(error)) from error
        self._takes_system = self._keeps_system()
        self.turn_ends = self._turn_ends()
        """The token that stands behind an answer. Some files name another one as the end, and a model would go on into
        the person's next turn."""

    def encode(self, chat: Chat) -> list[int]:
        """Tokens of the rendered chat. A last message of the assistant is left open: the answer goes on from it.

        The template writes the special tokens, and the tokenizer adds none: no doubled beginning of sequence. What
        people wrote cannot hold any: the tokens that this tokenizer knows as special are blanks in it.
        """
        clean = [Message(role=turn["role"], content=self._without_markup(turn["content"])) for turn in chat]
        text = self._render(clean if self._takes_system else _folded(clean))
        if text.rstrip().endswith(_THINK):  # it makes the model think whatever one asks; it has thought, then
            text = f"{text.rstrip()}\n\n{_END_THINK}\n\n"
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, chat: Chat) -> str:
        opened = chat[-1]["role"] == "assistant"
        text: str = self._tokenizer.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=not opened, continue_final_message=opened, **_OPTIONS
        )
        return text

    def _without_markup(self, text: str) -> str:
        before = None
        while text != before:  # none can be hidden in another
            before, text = text, self._markup.sub(" ", text)
        return text

    def _keeps_system(self) -> bool:
        """Whether there is a place for an instruction: some raise an error, and some leave it out without a word."""
        try:
            return _PROBE in self._render([Message(role="system", content=_PROBE), _HELLO])
        except jinja2.TemplateError:
            return False

    def _turn_ends(self) -> frozenset[int]:
        answered = [_HELLO, Message(role="assistant", content=_PROBE)]
        text = self._tokenizer.apply_chat_template(answered, tokenize=False, **_OPTIONS)
        found = self._markup.match(text.rpartition(_PROBE)[2].lstrip())
        return frozenset([self._tokenizer.convert_tokens_to_ids(found[0])] if found else [])


def template_of(tokenizer: Any, checkpoint: Checkpoint) -> ChatTemplate:
    """The chat template of a checkpoint's tokenizer. Raises FailedPrecondition (NO_CHAT_TEMPLATE)."""
    try:
        return ChatTemplate(tokenizer)
    except ValueError as error:
        raise FailedPrecondition(
            f"the language model at {checkpoint.place} has no chat template that can be used: {error}",
            reason="NO_CHAT_TEMPLATE",
            hint="use an instruct or chat checkpoint",
        ) from error


def _folded(chat: Chat) -> list[Message]:
    """The chat with its instruction put in front of what the person says first."""
    if len(chat) < 2 or chat[0]["role"] != "system":
        return list(chat)
    first = Message(role=chat[1]["role"], content=f"{chat[0]['content']}\n\n{chat[1]['content']}")
    return [first, *chat[2:]]


def _markup(tokenizer: Any) -> re.Pattern[str]:
    """Finds the tokens by which this tokenizer structures a chat."""
    added = {str(token.content) for token in tokenizer.added_tokens_decoder.values()}
    signs = {token for token in added | set(tokenizer.all_special_tokens) if re.search(r"[<>\[\]|]", token)}
    longest_first = sorted(signs, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
