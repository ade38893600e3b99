"""Decides whether the model's words may be searched with, because a small model is often wrong and sometimes absurd.

Pure functions: text in, verdict out. What the guard rejects is replaced by the plain join, `query, caption, comment`.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from services.rewriter.words import STOP_WORDS, WORD, content_stems, ruled_out_stems, wanted_stems, words

# Share of the comment's content words that a rewrite must keep; of one, two or three words this is every word.
KEPT_SHARE = 0.75
# This many words in a row that stand in the prompt and not in the request are no coincidence.
LEAK_WORDS = 4
# Nor are this many content words of the prompt that nobody asked for.
LEAK_STEMS = 3
# A run of this many words that comes twice is a loop; four would cut "a dog on a mat and a dog on a bed".
LOOP_WORDS = 5
# The longest query that the orchestrator takes.

_CHAT_TOKEN = re.compile(r"<\|[^|<>]{0,40}\|>|</?s>|\[/?INST\]|<<?/?SYS>>?", re.IGNORECASE)
_PREFIX = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)[,!.:]?\s+)?"
    r"(?:(?:here(?:'s| is)|this is)\s+)?(?:(?:the|my|a|your)\s+)?"
    r"(?:(?:new|next|merged|rewritten|revised|better|final|search|updated|combined|one)\s+)*"
    r"(?:query|search|rewrite|answer|output|result|response|sentence)\s*(?:is|would be)?\s*[:=]\s*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*•>#]+|\d{1,2}[.)])\s+")
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "«": "»", "`": "`", "*": "*"}
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able|not sure|afraid|just an?|only an?|an ai|here to|happy to)"
    r"|i (?:cannot|can't|can not|could not|couldn't|do not|don't|won't|apologi[sz]e|would|will|need|understand)\b"
    r"|as an? (?:ai|language model|assistant|artificial)|language model|smollm|hugging face|ai assistant"
    r"|my apologies|please (?:provide|give|note|let me)|could you (?:please|provide)|let me know|how can i help)",
    re.IGNORECASE,
)


class Rejection(Enum):
    """Why the model's words are not used; named as in `warmer.v1.Rewrite.FallbackReason`."""

    EMPTY = "EMPTY"
    TOO_LONG = "TOO_LONG"
    REFUSAL = "REFUSAL"
    PROMPT_LEAK = "PROMPT_LEAK"
    DROPPED_COMMENT = "DROPPED_COMMENT"


@dataclass(frozen=True)
class Verdict:
    """The model's words, cleaned, and why they must not be used (None: they may)."""

    text: str
    rejection: Rejection | None


def clean(raw: str, *, finished: bool = True) -> str:
    """The query inside what the model wrote: its first line, without chat tokens, label, bullet, quotes, full stop.

    A loop ("a dog on a bed, a dog on a bed, a ...") is cut where it begins to repeat. Of text that was cut off at the
    token limit (not `finished`) the last word goes, since it may be half a word, and loose ends such as "and a".
    """
    text = _CHAT_TOKEN.sub("\n", unicodedata.normalize("NFKC", raw))
    lines = (_one_line(line) for line in text.splitlines())
    text = next((line for line in lines if line), "")
    before = None
    while text != before:  # a label may stand in quotes, and quotes behind a label
        before = text
        text = _unquote(_PREFIX.sub("", _BULLET.sub("", text)).strip())
    if not finished:
        text = text.rpartition(" ")[0]
    whole = _before_loop(text)
    if whole != text or not finished:
        whole = _without_loose_end(whole)
    return whole.rstrip(" .,;:")


def judge(
    raw: str,
    *,
    query: str,
    captions: Sequence[str] = (),
    comment: str = "",
    prompt_texts: Sequence[str] = (),
    max_words: int = 60,
    finished: bool = True,
) -> Verdict:
    """Cleans what the model wrote and says whether it may be searched with.

    Args:
        raw: what the model wrote.
        query, captions, comment: what it was asked to merge; words of theirs are never a leak or a refusal.
        prompt_texts: instruction and examples of the prompt, to know them again.
        max_words: more words than this are rejected.
        finished: whether the model came to an end by itself; see `clean`.
    """
    text = clean(raw, finished=finished)
    said = "\n".join([query, *captions, comment])
    if not words(text):
        return Verdict(text, Rejection.EMPTY)
    if len(words(text)) > max_words:
        return Verdict(text, Rejection.TOO_LONG)
    if _refuses(text, said):
        return Verdict(text, Rejection.REFUSAL)
    if _leaks(text, said, prompt_texts) or _echoes(text, query, [*captions, comment]):
        return Verdict(text, Rejection.PROMPT_LEAK)
    if _drops(text, comment) or _brings_back(text, query, comment):
        return Verdict(text, Rejection.DROPPED_COMMENT)
    return Verdict(text, None)


def _before_loop(text: str) -> str:
    """The text up to where it says a run of `LOOP_WORDS` words for the second time."""
    places = list(WORD.finditer(text))
    seen: set[tuple[str, ...]] = set()
    for i in range(len(places) - LOOP_WORDS + 1):
        run = tuple(place[0].casefold() for place in places[i : i + LOOP_WORDS])
        if run in seen:
            return text[: places[i].start()]
        seen.add(run)
    return text


def _without_loose_end(text: str) -> str:
    """Without function words at the end, which would join on what is no longer there."""
    while text:
        head, _, last = text.rstrip(" .,;:").rpartition(" ")
        if not head or last.casefold() not in STOP_WORDS:
            break
        text = head
    return text


def _one_line(text: str) -> str:
    """Without control characters, and with single blanks."""
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def _unquote(text: str) -> str:
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        return text[1:-1].strip()
    if text[:1] in {'"', "\u201c", "«", "`"} and text.count(text[0]) == 1:
        return text[1:].strip()  # the closing quote was never written
    return text


def _refuses(text: str, said: str) -> bool:
    """Whether the model talks about itself, in words that the person did not use."""
    return any(match[0].casefold() not in said.casefold() for match in _REFUSAL.finditer(text))


def _leaks(text: str, said: str, prompt_texts: Sequence[str]) -> bool:
    ours = set(_runs(said))
    prompt_runs = {run for part in prompt_texts for run in _runs(part)} - ours
    if any(run in prompt_runs for run in _runs(text)):
        return True
    examples = set().union(*map(content_stems, prompt_texts)) if prompt_texts else set()
    return len((content_stems(text) & examples) - content_stems(said)) >= LEAK_STEMS


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    """Every `LEAK_WORDS` words in a row."""
    all_words = words(text)
    return (tuple(all_words[i : i + LEAK_WORDS]) for i in range(len(all_words) - LEAK_WORDS + 1))


def _echoes(text: str, query: str, others: Sequence[str]) -> bool:
    """Whether the text only repeats a caption or the comment, and so loses most of the query: nothing was merged."""
    wanted = content_stems(query)
    if 2 * len(wanted & content_stems(text)) >= len(wanted):
        return False
    plain = f" {' '.join(words(text))} "
    return any(plain in f" {' '.join(words(other))} " for other in others)


def _brings_back(text: str, query: str, comment: str) -> bool:
    """Whether the model took up, from a caption, what the comment rules out. What the query said is not its fault."""
    return bool(ruled_out_stems(comment) & wanted_stems(text) - content_stems(query))


def _drops(text: str, comment: str) -> bool:
    wanted = wanted_stems(comment)
    return len(wanted & content_stems(text)) < math.ceil(KEPT_SHARE * len(wanted))
