"""What of a streamed answer is passed on: no block of thinking at its start, and its first line alone.

Models that think write it down first, between tags, unless their server cuts it out.
"""

import re
from collections.abc import Iterator

_THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_BLANK_LINES = re.compile(r"\A(?:[^\S\r\n]*[\r\n])+")
_BREAK = re.compile(r"[\r\n]")


class VisibleText:
    """Takes an answer piece by piece. `text` is what is to be passed on, `complete` whether no more will come of it."""

    def __init__(self) -> None:
        self.text = ""
        self.complete = False
        self._raw = ""

    def feed(self, piece: str) -> str:
        """Takes the next piece; gives what `text` grew by."""
        self._raw += piece
        return self._grow(_without_thinking(self._raw))

    def end(self) -> str:
        """Says that the answer is over; gives what was held back, since it could have become a tag."""
        return self._grow(self._raw if any(_begin_of_a_tag(self._raw)) else _without_thinking(self._raw))

    def _grow(self, shown: str) -> str:
        if self.complete:
            return ""
        line, *rest = _BREAK.split(_BLANK_LINES.sub("", shown), maxsplit=1)
        self.complete = bool(rest)
        if not line.strip():
            return ""  # blanks may turn out to be a blank line
        grown = line[len(self.text) :]
        self.text = line
        return grown


def _without_thinking(raw: str) -> str:
    """The answer behind the thinking; nothing while it thinks, or while it may be about to."""
    start = raw.lstrip()
    for opening, closing in _THINKING:
        if start.startswith(opening):
            return start.partition(closing)[2]
    return "" if any(_begin_of_a_tag(raw)) else raw


def _begin_of_a_tag(raw: str) -> Iterator[bool]:
    start = raw.lstrip()
    return (opening.startswith(start) and start != opening for opening, _ in _THINKING)
