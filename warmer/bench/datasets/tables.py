"""Reads caption tables: CSV in the dialects that are about, and the token files of Flickr8k and Flickr30k.

The separator is what splits the header best. Kaggle's Flickr30k has ``|`` with blanks around it and quotation marks
that mean nothing, so blanks are cut only after reading, and a quotation mark counts only right at the start of a field.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from warmer.bench.datasets import problems
from warmer.bench.datasets.base import Problem
from warmer.bench.datasets.problems import bad_dataset

_SEPARATORS = ",|;\t"
_TOKEN = re.compile(r"[^\t]+#\d+\t.*\S")  # 1000092795.jpg#0<tab>Two young guys ...
_MAX_HEADER = 1 << 20

Repair = Callable[[list[str], "Format"], list[str] | None]


@dataclass(frozen=True)
class Wanted:
    """Names that the columns of image and caption may have, the usual one first."""

    images: tuple[str, ...]
    captions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{' or '.join(self.images)}, and {' or '.join(self.captions)}"


@dataclass(frozen=True)
class Format:
    """How a table is written. `header` is as found, without blanks around its names; token files have none."""

    header: tuple[str, ...]
    separator: str = ","
    skips_blank: bool = False
    is_token: bool = False
    encoding: str = "utf-8-sig"

    def columns(self, wanted: Wanted) -> tuple[int, int] | None:
        """Numbers of the columns of image and caption, or None when one is missing."""
        found = [name.casefold() for name in self.header]
        places = [
            next((found.index(name.casefold()) for name in names if name.casefold() in found), None)
            for names in (wanted.images, wanted.captions)
        ]
        return (places[0], places[1]) if places[0] is not None and places[1] is not None else None


@dataclass(frozen=True)
class Row:
    """A row that has both fields. `line` is where it begins, counted from 1."""

    line: int
    image: str
    caption: str
    repaired: bool = False


def sniff(path: Path) -> Format:
    """How the table is written, from its first line. Raises InvalidArgument (``BAD_DATASET``)."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            first = file.readline(_MAX_HEADER).rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise bad_dataset(f"{path.name} cannot be read: {error}") from error
    if _TOKEN.fullmatch(first):
        return Format(("image_name", "comment"), "\t", is_token=True, encoding=encoding)
    separator = max(_SEPARATORS, key=first.count)
    skips_blank = separator in ",;" and f"{separator} " in first
    names = next(csv.reader([first], delimiter=separator, skipinitialspace=skips_blank), [])
    return Format(tuple(name.strip() for name in names), separator, skips_blank, encoding=encoding)


def require_columns(path: Path, form: Format, wanted: Wanted) -> tuple[int, int]:
    """Numbers of the columns. Raises InvalidArgument (``BAD_DATASET``) that names those found and those wanted."""
    columns = form.columns(wanted)
    if columns is None:
        raise bad_dataset(
            f"{path.name} has the columns {', '.join(map(repr, form.header)) or '(none)'}; wanted: {wanted}",
            "Rename the columns, or name them (--image-column, --caption-column).",
        )
    return columns


def read_rows(
    path: Path, form: Format, columns: tuple[int, int], repair: Repair | None = None
) -> Iterator[Row | Problem]:
    """All rows, and a problem for each that cannot be used. `repair` may make the right fields of a broken row."""
    unclosed = re.compile(
        rf"[\r\n][^\r\n]*(?:\.(?:jpe?g|png|gif|webp|bmp)|video\d+)\"?\s*{re.escape(form.separator)}", re.I
    )
    with path.open(encoding=form.encoding, errors="surrogateescape", newline="") as file:
        reader = _reader(file, form)
        line = 1 if form.is_token else _skip_header(reader)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeError) as error:
                yield Problem(problems.BAD_ROW, f"{_lines(line, reader.line_num)}: {error}")
                if isinstance(error, UnicodeError):
                    return
            else:
                if fields:
                    yield _row(fields, form, columns, unclosed, _Place(line, reader.line_num, repair))
            line = reader.line_num + 1


@dataclass(frozen=True)
class _Place:
    first: int
    last: int
    repair: Repair | None


class _Reader(Protocol):
    line_num: int

    def __next__(self) -> list[str]: ...


def _reader(file: io.TextIOBase, form: Format) -> _Reader:
    if form.is_token:
        return csv.reader(file, delimiter=form.separator, quoting=csv.QUOTE_NONE)
    return csv.reader(file, delimiter=form.separator, skipinitialspace=form.skips_blank)


def _skip_header(reader: _Reader) -> int:
    try:
        next(reader)
    except StopIteration:
        return 1
    return reader.line_num + 1


def _row(
    fields: list[str], form: Format, columns: tuple[int, int], unclosed: re.Pattern[str], place: _Place
) -> Row | Problem:
    fault = _fault(fields, form, columns, unclosed)
    repaired = False
    if fault and place.repair is not None:
        better = place.repair(fields, form)
        if better is not None:
            fields, fault, repaired = better, "", True
    if fault:
        return Problem(problems.BAD_ROW, f"{_lines(place.first, place.last)}: {fault}")
    image = fields[columns[0]].strip()
    if form.is_token:
        image = image.rpartition("#")[0]
    return Row(place.first, image, fields[columns[1]], repaired)


def _fault(fields: list[str], form: Format, columns: tuple[int, int], unclosed: re.Pattern[str]) -> str:
    """What is wrong with a row, or nothing."""
    if len(fields) <= max(columns):
        return f"{len(fields)} of {len(form.header)} fields, without {form.header[max(columns)]!r}"
    if any(field.strip() for field in fields[len(form.header) :]):
        return f"{len(fields)} fields instead of {len(form.header)}; is a separator in a text that is not quoted?"
    if not fields[columns[0]].strip():
        return f"no {form.header[columns[0]]!r}"
    if any("\n" in field and unclosed.search(field) for field in fields):
        return "a quotation mark is not closed, so rows run together"
    return ""


def _lines(first: int, last: int) -> str:
    return f"line {first}" if last <= first else f"lines {first} to {last}"


def names_of(rows: Sequence[Row]) -> Iterator[tuple[str]]:
    """The image names of the rows, as `choose_root` wants them."""
    return ((row.image,) for row in rows)
