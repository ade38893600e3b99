"""The plain join of query, captions and comment: what a rewrite falls back to, in rewriter and orchestrator alike."""

import re
import unicodedata
from collections.abc import Sequence

MAX_JOIN_CHARS = 10_000
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")


def plain_join(query: str, captions: Sequence[str] = (), comment: str = "") -> str:
    """`query, caption, comment`, without parts that an earlier part already says, at most 10,000 characters.

    Where that is too long captions go first, last one first, then the end of the query: the comment is never cut off
    by what the person did not write.
    """
    kept = list(captions)
    joined = _join([query, *kept, comment])
    while len(joined) > MAX_JOIN_CHARS and kept:
        kept.pop()
        joined = _join([query, *kept, comment])
    if len(joined) > MAX_JOIN_CHARS:
        room = max(0, MAX_JOIN_CHARS - len(_tidy(comment)) - 2)
        joined = _join([_tidy(query)[:room].rpartition(" ")[0], comment])[:MAX_JOIN_CHARS]
    return joined


def _join(parts: Sequence[str]) -> str:
    kept: list[str] = []
    seen: list[str] = []
    for part in map(_tidy, parts):
        plain = f" {' '.join(_words(part))} "
        if plain.strip() and not any(plain in earlier for earlier in seen):
            kept.append(part)
            seen.append(plain)
    return ", ".join(kept)


def _tidy(part: str) -> str:
    """One line without control characters, and without the punctuation at its end, which would cut the query up."""
    printable = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in part)
    return " ".join(printable.split()).rstrip(" .,;:")


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
