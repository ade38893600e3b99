"""Shows how far a fetch or a check is: a bar with rate and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from warmer.cli import output

_QUIET_S = 30.0  # between two lines of a log


def in_units(size: float) -> str:
    """A number of bytes for people: `15.1 GB`, in powers of ten, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class ProgressBar:
    """Progress over files, one at a time, on stderr. Used in a `with` statement."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        if output.err.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=output.err,
            )
        self._task: TaskID | None = None
        self._name, self._total, self._done, self._said = "", None, 0, 0.0

    _name: str
    _total: int | None
    _done: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        """The next file: its name, its bytes if known, and how many of them are there already."""
        self._name, self._total, self._done, self._said = name, total, done, time.monotonic()
        if self._bar is None:
            self._say()
            return
        self._bar.start()  # not before: a question may come first, and a bar would paint over it
        if self._task is not None:
            self._bar.update(self._task, visible=self._bar.tasks[-1].finished)
        self._task = self._bar.add_task(name, total=total, completed=done)

    def advance(self, size: int) -> None:
        """So many bytes more."""
        self._done += size
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=size)
        elif time.monotonic() - self._said > _QUIET_S:
            self._said = time.monotonic()
            self._say()

    def note(self, text: str) -> None:
        """A line beside the bar."""
        output.err.print(text)

    def _say(self) -> None:
        total = in_units(self._total) if self._total is not None else "of unknown size"
        done = f", {in_units(self._done)} of it here" if self._done else ""
        output.note(f"{self._name}, {total}{done}")
