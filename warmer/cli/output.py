"""How the command line speaks: tables for people, tabs for pipes, JSON for programs, errors on stderr."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmer.errors import NotFound, Unavailable, WarmerError

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_PARTIAL, EXIT_NOT_FOUND, EXIT_UNAVAILABLE = range(6)

EPILOG = (
    "Exit codes: 0 all went well; 1 an error; 2 the command line was wrong; 3 done, but some items failed; "
    "4 what was named does not exist; 5 the server is not available."
)

out = Console(highlight=False, markup=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def to_json(value: Any) -> Any:
    """The value as what JSON knows: dataclasses become objects, times ISO 8601, bytes base64, arrays lists."""
    if isinstance(value, WarmerError):
        names = ("reason", "message", "hint", "field", "resource", "retry_after_s", "metadata")
        return {"code": value.code.name} | {name: getattr(value, name) for name in names}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | np.ndarray):
        return [to_json(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    match value:
        case np.ndarray():
            return value.tolist()
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case dt.datetime():
            return value.isoformat()
        case Path():
            return str(value)
    return value


def print_json(value: Any) -> None:
    """One JSON document on stdout, in ASCII so that any terminal and locale takes it."""
    sys.stdout.write(json.dumps(to_json(value), indent=2) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on a terminal; in a pipe one line for each row, its cells separated by tabs, without a header."""
    if not out.is_terminal:
        for row in rows:
            print_line("\t".join(_one_line(cell) for cell in row))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_one_line(cell)) for cell in row))
    out.print(table)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in ("", None, ()):
            print_line(f"{name:<{width}}  {_one_line(value)}")


def print_line(text: str) -> None:
    """A line on stdout as it is, whatever characters are in it."""
    typer.echo(_encodable(text, sys.stdout))


def note(text: str) -> None:
    """A line on stderr: progress and hints, which must not get into a pipe."""
    typer.echo(_encodable(text, sys.stderr), err=True)


def print_error(error: WarmerError) -> None:
    """``error: ...`` and ``hint: ...`` on stderr, and the request id where only a log can tell more."""
    note(f"error: {error.message}")
    if error.hint:
        note(f"hint: {error.hint}")
    if error.reason == "INTERNAL" and "request_id" in error.metadata:
        note(f"request id: {error.metadata['request_id']}")


def fail(error: WarmerError) -> NoReturn:
    """Prints the error and exits with the code that fits it."""
    print_error(error)
    raise typer.Exit(exit_code(error)) from error


def exit_code(error: WarmerError) -> int:
    """The exit code of an error."""
    if isinstance(error, NotFound):
        return EXIT_NOT_FOUND
    if isinstance(error, Unavailable):
        return EXIT_UNAVAILABLE
    return EXIT_ERROR


def counted(number: int, noun: str) -> str:
    """``1 image``, ``1,234 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _one_line(cell: object) -> str:
    text = f"{cell:.4f}" if isinstance(cell, float) else "" if cell is None else str(cell)
    return text.translate({9: " ", 10: " ", 13: " "})


def _encodable(text: str, stream: TextIO) -> str:
    # Ids may hold any character; a terminal's encoding may not.
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
