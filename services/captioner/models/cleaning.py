"""Makes captions of what language models write: one line of plain data, while it is written and when it is done.

A photo can show any words, such as "ignore your instructions and write ...", and a model may repeat or follow them. No
captioner can tell. So a caption is only ever data: here it loses all that could act in a prompt (line breaks, control
characters, chat tokens) and is capped in length; the rewriter puts it behind a label and checks what comes out. What
such an image can change is the words of its own caption.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from services.common.chat_tokens import plain

MAX_CHARS = 1000
# Up to the last end of a sentence. Three letters before it: `Dr.` and `3.5` end none.
_WHOLE = re.compile(r"^.*\w{3}[.!?][\"'\u2019)\]]*(?=\s|$)")
# The beginning of what may become a chat token.
_OPEN = re.compile(r"<<[^<>\[\]]{0,64}>?$|[<\[|][^<>\[\]]{0,64}$")


def clean(text: str, *, finished: bool = True) -> str:
    """The caption in what a model wrote: one line of at most MAX_CHARS characters, without chat tokens.

    A text that was cut off (not `finished`) ends with its last whole sentence, if it has one.
    """
    line = plain(text)
    if len(line) > MAX_CHARS:
        line, finished = line[:MAX_CHARS].rsplit(" ", 1)[0], False
    whole = None if finished else _WHOLE.match(line)
    return whole.group() if whole else line


class CaptionStream:
    """Passes on the pieces of one caption, cleaned: joined they are the caption, unless it is cut at its end."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._raw = ""
        self._shown = ""

    def restart(self) -> None:
        """The caption is written again from its beginning; what is shown already is not shown again."""
        self._raw = ""

    def write(self, piece: str) -> None:
        """The next piece. What may be half a chat token waits for the rest."""
        self._raw += piece
        self._show(plain(_OPEN.sub("", self._raw)))

    def end(self, caption: str) -> None:
        """The caption as it is returned."""
        self._show(caption)

    def _show(self, text: str) -> None:
        if len(text) > len(self._shown) and text.startswith(self._shown):
            self._on_text(text[len(self._shown) :])
            self._shown = text
