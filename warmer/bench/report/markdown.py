"""Writes sections as Markdown. Text is escaped, so that it can neither break a table nor be taken for markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from warmer.bench.report.tables import Section, Table

_MARKUP = re.compile(r"([\\`*\[\]<>|#]|(?<!\w)_|_(?!\w))")  # an underscore within a word is none


def render(sections: Sequence[Section], plots: Sequence[tuple[str, str]] = ()) -> str:
    """A page. `plots` are (title, file name) of pictures, which stand after the first section."""
    parts: list[str] = []
    for position, section in enumerate(sections):
        parts.append(f"{'#' * section.level} {escape(section.title)}")
        parts.extend(escape(note) for note in section.notes)
        parts.extend(render_table(table) for table in section.tables)
        if position == 0:
            parts.extend(f"![{escape(title)}]({name})" for title, name in plots)
    return "\n\n".join(parts) + "\n"


def render_table(table: Table) -> str:
    """A table whose columns are as wide as their cells, so that it can be read as plain text too."""
    lines = [[_cell(cell) for cell in line] for line in (table.head, *table.rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(table.head))]
    rule = ["-" * width if column < table.labels else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(_line(line, widths, table.labels) for line in (lines[0], rule, *lines[1:]))


def escape(text: str) -> str:
    """Text of one line that Markdown shows as it is."""
    flat = " ".join(text.split())
    return _MARKUP.sub(r"\\\1", flat)


def _cell(text: str) -> str:
    # Numbers are left as they are: a bracket after a number makes no link.
    return text if re.fullmatch(r"[-+.\d\[\], %()]*", text) else escape(text)


def _line(cells: Sequence[str], widths: Sequence[int], labels: int) -> str:
    padded = [
        cell.ljust(width) if column < labels else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"
