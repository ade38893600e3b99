"""What a report says in tables, whatever it is written in: sections of tables with cells of plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warmer.bench.metrics import Estimate

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table. The first `labels` columns are words, the others numbers. Cells are plain text; writers escape them."""

    head: Row
    rows: tuple[Row, ...]
    labels: int = 1


@dataclass(frozen=True)
class Section:
    """A heading with what is under it. `level` is 1 for the title. `notes` come before the tables."""

    title: str
    level: int
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def table(head: Sequence[str], rows: Sequence[Sequence[object]], labels: int = 1) -> Table:
    """A table of whatever has a text."""
    return Table(tuple(head), tuple(tuple(str(cell) for cell in row) for row in rows), labels)


def number(value: float | None, *, sign: bool = False, short: bool = False) -> str:
    """Three decimals, no zero before the point (.615, +.013); one at most if `short` (4, 4.5). Empty for None."""
    if value is None:
        return ""
    text = format(value, f"{'+' if sign else ''}.{1 if short else 3}f")
    text = text.removesuffix(".0") if short else text
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def with_interval(estimate: Estimate, *, sign: bool = False, short: bool = False) -> str:
    """A value and its interval: `.615 [.590, .640]`."""
    value, low, high = (number(part, sign=sign, short=short) for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]" if low else value


def share(part: int, whole: int) -> str:
    """A number with its share of a whole: `12 (2.4 %)`."""
    return f"{part} ({100 * part / whole:.1f} %)" if whole else str(part)
