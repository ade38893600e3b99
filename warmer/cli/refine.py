"""``warmer refine``: the next round of a session, with its stages as they happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from warmer.cli import options, output
from warmer.cli.search import show_hits, show_truncations
from warmer.client import Session
from warmer.errors import InvalidArgument
from warmer.types import CaptionReady, EarlyHits, Event, RewriteReady, Round, RoundReady, StageEvent

STAGES = {
    "early_search": "first hits",
    "caption": "captions of the marked images",
    "rewrite": "rewrite of the query",
    "search": "search",
}


Relevant = Annotated[list[str] | None, typer.Option("--relevant", "-r", help="Image that is close: its id, or @N.")]
Irrelevant = Annotated[
    list[str] | None, typer.Option("--irrelevant", "-x", help="Image that is not what you mean: its id, or @N.")
]
Comment = Annotated[str, typer.Option("--comment", "-m", help="What differs, or what matters.")]
Displayed = Annotated[
    list[str] | None, typer.Option(help="Image that you really saw, if not the whole page: its id, or @N.")
]
Etag = Annotated[str | None, typer.Option(help="Refuse if the session has changed since this etag.")]


def refine(
    session: options.SessionArgument,
    *,
    relevant: Relevant = None,
    irrelevant: Irrelevant = None,
    comment: Comment = "",
    displayed: Displayed = None,
    etag: Etag = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Say what is close and what differs, and get the next round of hits.

    @N is the N-th hit of the last round. Options can be repeated. Without any feedback you get the next page.

    Examples:

      warmer refine SESSION --relevant @3 --comment "but with snow"

      warmer refine SESSION -r @1 -r @4 -x @2

      warmer refine SESSION                      (next page)
    """
    with options.connect(target, embedder) as client:
        hunt = client.sessions.get(session)
        marks = _Marks(hunt)
        events = hunt.refine_stream(
            marks.resolve(relevant or ()),
            marks.resolve(irrelevant or ()),
            comment,
            displayed=marks.resolve(displayed) if displayed else None,
            etag=etag,
        )
        for event in events:
            if isinstance(event, RoundReady):
                show_round(event.round, as_json=as_json)
            elif not as_json:
                _show_event(event)


class _Marks:
    """Turns @N into the id of the N-th hit of the last round, which is fetched only if it is needed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last: Round | None = None

    def resolve(self, marks: Sequence[str]) -> list[str]:
        return [self._hit(mark) if mark.startswith("@") and mark[1:].isdecimal() else mark for mark in marks]

    def _hit(self, mark: str) -> str:
        if self._last is None:
            for round in self._session.rounds():
                self._last = round
        hits = self._last.hits if self._last else ()
        number = int(mark[1:])
        if not 1 <= number <= len(hits):
            raise InvalidArgument(
                f"{mark} is none of the {output.counted(len(hits), 'hit')} of the last round",
                reason="BAD_MARK",
                field="relevant",
                hint=f"Look at them with: warmer session rounds {self._session.id}",
            )
        return hits[number - 1].image_id


def show_round(round: Round, *, as_json: bool) -> None:
    """A round: query, hits, and what went without a stage."""
    if as_json:
        output.print_json(round)
        return
    output.print_line(f"round {round.index}: {round.query or '(by example)'}")
    show_hits(round.hits)
    show_truncations(round.truncations)
    if round.degraded_stages:
        output.note(f"note: answered without {', '.join(STAGES.get(s, s) for s in round.degraded_stages)}")
    if round.timings:
        output.note("time: " + ", ".join(f"{timing.stage} {timing.seconds:.2f} s" for timing in round.timings))


def _show_event(event: Event) -> None:
    """What happens on the way, on stderr: the round itself is the result."""
    match event:
        case StageEvent(stage=stage, phase="started"):
            output.note(f"... {STAGES.get(stage, stage)}")
        case StageEvent(stage=stage, phase="skipped", detail=detail):
            output.note(f"... {STAGES.get(stage, stage)} skipped: {detail}")
        case EarlyHits(hits=hits):
            output.note(f"    first hits: {', '.join(hit.image_id for hit in hits[:5])}")
        case CaptionReady(caption=caption):
            text = f'"{caption.text}"' if caption.error is None else f"no caption: {caption.error.message}"
            output.note(f"    {caption.image_id}: {text}")
        case RewriteReady(rewrite=rewrite):
            how = f" (joined: {rewrite.fallback_reason.replace('_', ' ')})" if rewrite.fell_back else ""
            output.note(f"    query: {rewrite.text}{how}")
