"""Watches a batch while transformers generates: streams each row's text, ends each row by itself, says what each wrote.

transformers has streamers for one row alone. Captioner and rewriter generate for several callers at once, and each of
them wants the words of its own row as they come, and may go away before the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

_REPLACEMENT = "\ufffd"  # what half a character decodes to
_BLANK_LINES = re.compile(r"\A(?:[^\S\r\n]*[\r\n])+")
_BREAK = re.compile(r"[\r\n]")


@dataclass(frozen=True)
class Generated:
    """What was written in one row.

    `tokens` counts the token that ended it. `finished` says that the model came to an end (or to a line break, where
    one line is wanted): False when the limit of tokens or the caller cut it off.
    """

    text: str
    tokens: int
    finished: bool


@dataclass
class _Row:
    sent: int = 0  # characters of the text that were streamed
    tokens: int = 0
    text: str = ""
    done: bool = False
    finished: bool = False


class BatchWatch(StoppingCriteria):  # type: ignore[misc]
    """One of `stopping_criteria` of a `generate` call without beams; good for one call.

    Rows that are done are filled with padding by `generate` until the last one is: that is ignored here.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_length: int,
        on_text: Callable[[int, str], None],
        should_stop: Callable[[int], bool],
        *,
        one_line: bool,
        end_ids: Collection[int] | None = None,
    ) -> None:
        """Watches what is written behind the prompts.

        Args:
            tokenizer: decodes the text.
            prompt_length: tokens of each prompt, padding (on the left) included; what follows is new.
            on_text: gets each further piece of the text of row `index`, from the thread that generates. No piece ends
                within a character. All pieces of a row together are its result's text, once `results` was called.
            should_stop: asked for every row after every token; True ends the row where it is.
            one_line: ends a row at the first line break behind a word. Blank lines before that are left out of the
                text, blanks inside of it stay.
            end_ids: tokens that end a row, as `end_ids(model, tokenizer)` finds them; None takes the tokenizer's.
        """
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._on_text = on_text
        self._should_stop = should_stop
        self._one_line = one_line
        self._end_ids = frozenset((tokenizer.eos_token_id,) if end_ids is None else end_ids)
        self._rows: list[_Row] = []

    def __call__(self, input_ids: torch.Tensor, _scores: Any = None, **_: Any) -> torch.Tensor:
        """Looks at (B, T) prompts and new tokens after each step; (B,) bool says which rows are done."""
        self._look(input_ids)
        return torch.tensor([row.done for row in self._rows], dtype=torch.bool, device=input_ids.device)

    def results(self, sequences: torch.Tensor, max_new_tokens: int) -> list[Generated]:
        """What each row wrote, at most `max_new_tokens` tokens; streams what was held back. Call it once, at the end.

        `sequences` (B, T) is what `generate` returned.
        """
        self._look(sequences[:, : self._prompt_length + max_new_tokens])
        for index, row in enumerate(self._rows):
            self._send(index, row)
        return [Generated(row.text, row.tokens, row.finished) for row in self._rows]

    def _look(self, sequences: torch.Tensor) -> None:
        written = sequences[:, self._prompt_length :].tolist()
        self._rows = self._rows or [_Row() for _ in written]
        for index, (row, tokens) in enumerate(zip(self._rows, written, strict=True)):
            if not row.done and len(tokens) > row.tokens:
                self._step(index, row, tokens)

    def _step(self, index: int, row: _Row, tokens: list[int]) -> None:
        """One row, with its new tokens so far."""
        row.tokens = len(tokens)
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        row.text, complete = first_line(text) if self._one_line else (text, False)
        # Blanks may turn out to be a blank line, and half a character decodes to another one than the whole.
        if row.text.strip() and not row.text.endswith(_REPLACEMENT):
            self._send(index, row)
        row.finished = complete or tokens[-1] in self._end_ids
        row.done = row.finished or self._should_stop(index)

    def _send(self, index: int, row: _Row) -> None:
        if len(row.text) > row.sent:
            self._on_text(index, row.text[row.sent :])
            row.sent = len(row.text)


def first_line(text: str) -> tuple[str, bool]:
    """The first line that has something on it, blanks inside kept, and whether a line break has completed it."""
    parts = _BREAK.split(_BLANK_LINES.sub("", text), maxsplit=1)
    return parts[0], len(parts) > 1


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end what `model` writes: those of its generation settings (Llama 3.1 has three), and the
    tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list | tuple) else [ends]
    return frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None)


def pad_id(tokenizer: Any, ends: Collection[int]) -> int:
    """The token that fills rows that are done: the tokenizer's padding, or else an end. It is never read."""
    pad: int | None = tokenizer.pad_token_id
    return pad if pad is not None else min(ends, default=0)
