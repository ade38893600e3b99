"""What both notebooks share: notes of progress, and a hunt in pictures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from html import escape

from IPython.display import HTML

from warmer.bench.records import Hunt
from warmer.bench.report.pictures import Pictures
from warmer.cli.progress import Show, progress

_STYLE = "display:inline-block;margin:2px;padding:2px;border:3px solid"
_TARGET, _MARKED, _PLAIN = "#009E73", "#E69F00", "transparent"


def notes_of_progress(what: str, noun: str) -> AbstractContextManager[Show]:
    """A line every ten seconds, with the time left."""
    return progress(what, quiet=False, noun=noun)


def hunt_in_pictures(hunt: Hunt, pictures: Pictures) -> HTML:
    """A hunt, a row for each round: what was displayed, what was marked (orange), and the target (green)."""
    end = f"found in round {hunt.found}" if hunt.found is not None else f"not found ({hunt.failure or hunt.stopped})"
    target = hunt.targets[0]
    rows = [f"<h4>{escape(hunt.text)}: {escape(end)}</h4>", _picture(target, _TARGET, pictures)]
    for round, following in zip(hunt.rounds, (*hunt.rounds[1:], None), strict=True):
        marked = following.relevant if following else ()
        said = f', after the comment "{escape(round.comment)}"' if round.comment else ""
        rows.append(f"<p>Round {round.index}: the target ranks {round.rank}{said}</p>")
        for id in dict.fromkeys((*round.displayed, *marked)):
            colour = _TARGET if id in hunt.targets else _MARKED if id in marked else _PLAIN
            rows.append(_picture(id, colour, pictures))
    return HTML("".join(rows))  # type: ignore[no-untyped-call]


def _picture(image_id: str, colour: str, pictures: Pictures) -> str:
    uri, name = pictures.uri(image_id), escape(image_id)
    inner = f'<img src="{uri}" alt="{name}" title="{name}" height="90">' if uri else name
    return f'<span style="{_STYLE} {colour}">{inner}</span>'
