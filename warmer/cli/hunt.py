"""The hunt of `warmer demo`, played from a script or asked for at the terminal, and told as it happens."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from warmer.cli import contact_sheet, output
from warmer.cli.refine import STAGES
from warmer.client import Session
from warmer.errors import WarmerError
from warmer.types import CaptionReady, EarlyHits, Event, RewriteReady, Round, RoundReady, StageEvent

_SCRIPT_TARGET = "rocket.jpg"
_SCRIPT_QUERY = "something far away"
_SCRIPT_STEPS = (("china.jpg", ""), ("", "on a launch pad at night"), ("", "a rocket"))
_HELP = (
    "Say what is close and what differs: '+2' the second is close, '-3' the third is not, words are a comment;\n"
    "all in one line if you like ('+2 -3 but at night'). An empty line shows the next page, 'found 1' ends the\n"
    "hunt, 'q' leaves."
)


@dataclass
class Hunt:
    """A session that tells what happens in it, and remembers its rounds for the contact sheet."""

    session: Session
    rows: list[contact_sheet.Row] = field(default_factory=list)
    last: Round | None = None

    def search(self, text: str) -> Round:
        """Round 0. Raises as `Session.search`."""
        output.print_line(f'\nround 0: you describe it: "{text}"')
        return self._show(self.session.search(text), f'round 0: "{text}"', "the first hits for the words alone")

    def refine(self, relevant: list[str], irrelevant: list[str], comment: str) -> Round:
        """The next round, told while it happens. Raises as `Session.refine_stream`."""
        said = [f"{i} is close" for i in relevant] + [f"{i} is not it" for i in irrelevant]
        said += [f'"{comment}"'] if comment else []
        number = self.last.index + 1 if self.last else 1
        output.print_line(f"\nround {number}: you say: {', '.join(said) or 'show me more'}")
        if self.rows:
            self.rows[-1].frames.update(dict.fromkeys(relevant, contact_sheet.RELEVANT))
            self.rows[-1].frames.update(dict.fromkeys(irrelevant, contact_sheet.IRRELEVANT))
        for event in self.session.refine_stream(relevant, irrelevant, comment):
            if isinstance(event, RoundReady):
                detail = f"new query: {event.round.query}"
                return self._show(event.round, f"round {number}: {', '.join(said) or 'the next page'}", detail)
            _tell(event)
        raise AssertionError("a stream ends with a round or an error")

    def finish(self, image_id: str) -> None:
        """Ends the hunt with its find."""
        self.session.finish(image_id)
        if self.rows:
            self.rows[-1].frames[image_id] = contact_sheet.FOUND
        rounds = self.last.index if self.last else 0
        output.print_line(f"\nfound {image_id} after {output.counted(rounds, 'round')} of feedback")

    def _show(self, round: Round, title: str, detail: str) -> Round:
        self.last = round
        self.rows.append(contact_sheet.Row(title, detail, [hit.image_id for hit in round.hits], {}))
        for number, hit in enumerate(round.hits, 1):
            output.print_line(f"  {number}  {hit.score:6.3f}  {hit.image_id}")
        spent = ", ".join(f"{timing.stage} {1000 * timing.seconds:.0f} ms" for timing in round.timings)
        output.print_line(f"  time: {spent}")
        for stage in round.degraded_stages:
            output.print_line(f"  the round went without: {STAGES.get(stage, stage)}")
        return round


def _tell(event: Event) -> None:
    match event:
        case EarlyHits(hits=hits):
            output.print_line(f"  first hits, before any language model: {', '.join(h.image_id for h in hits[:3])} ...")
        case CaptionReady(caption=caption):
            text = f'"{caption.text}"' if caption.error is None else f"(none: {caption.error.message})"
            output.print_line(f"  the captioner says of {caption.image_id}: {text}")
        case RewriteReady(rewrite=rewrite):
            how = f" (plain join: {rewrite.fallback_reason.replace('_', ' ')})" if rewrite.fell_back else ""
            output.print_line(f'  the rewriter makes of it: "{rewrite.text}"{how}')
        case StageEvent(stage=stage, phase="skipped", detail=detail):
            output.print_line(f"  {STAGES.get(stage, stage)} skipped: {detail}")


def play(hunt: Hunt, query: str, *, own: bool) -> None:
    """A hunt by script: for the sample gallery towards one photograph, for your own a tour of the loop."""
    if own:
        round = hunt.search(query or "people outdoors")
        if round.hits:
            hunt.refine([round.hits[0].image_id], [], "")
            hunt.refine([], [], "")
        return
    output.print_line(f"\nThe hunt: somebody has {_SCRIPT_TARGET} in mind and begins with a vague description.")
    round = hunt.search(query or _SCRIPT_QUERY)
    for mark, comment in _SCRIPT_STEPS:
        seen = [hit.image_id for hit in round.hits]
        if _SCRIPT_TARGET in seen:
            break
        round = hunt.refine([mark] if mark in seen else [], [], comment)
    if _SCRIPT_TARGET in [hit.image_id for hit in round.hits]:
        hunt.finish(_SCRIPT_TARGET)


def ask(hunt: Hunt) -> None:
    """A hunt at the terminal, until it is found or left."""
    output.print_line("\nWhat do you have in mind? Describe it in a few words.")
    while hunt.last is None:
        text = _line("describe> ")
        if text is None or text == "q":
            return
        _tried(partial(hunt.search, text))
    output.print_line(_HELP)
    while True:
        text = _line("closer> ")
        if text is None or text == "q":
            return
        relevant, irrelevant, found, comment = read_feedback(text, [hit.image_id for hit in hunt.last.hits])
        if found:
            hunt.finish(found)
            return
        _tried(partial(hunt.refine, relevant, irrelevant, comment))


def read_feedback(text: str, page: list[str]) -> tuple[list[str], list[str], str, str]:
    """Reads a line of feedback against the ids of the page: relevant, irrelevant, found, comment.

    A number that is not on the page stays a part of the comment.
    """

    def at(number: str) -> str:
        return page[int(number) - 1] if 1 <= int(number) <= len(page) else ""

    if (match := re.fullmatch(r"found\s+(\d+)", text.strip())) and at(match[1]):
        return [], [], at(match[1]), ""
    marks: dict[str, list[str]] = {"+": [], "-": []}
    words = []
    for word in text.split():
        match = re.fullmatch(r"([+-])(\d+)", word)
        if match and at(match[2]):
            marks[match[1]].append(at(match[2]))
        else:
            words.append(word)
    return marks["+"], marks["-"], "", " ".join(words)


def _line(prompt: str) -> str | None:
    try:
        return input(prompt).strip()
    except EOFError:
        return None


def _tried(step: Callable[[], object]) -> None:
    """Runs a step; what went wrong is said, and the hunt goes on."""
    try:
        step()
    except WarmerError as error:
        output.print_error(error)
