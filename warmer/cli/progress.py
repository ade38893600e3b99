"""How far long work has come: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from warmer._passes import ImageFailure
from warmer.cli import output
from warmer.types import AddResult

NOTE_INTERVAL_S = 10.0
SHOWN_FAILURES = 50
EXIT_INTERRUPTED = 130  # what shells give a command that Ctrl-C ended

Show = Callable[[int, int], None]
"""Is told how many images (or what else it is) are done, of how many."""


class _RateColumn(ProgressColumn):
    def __init__(self, noun: str) -> None:
        super().__init__()
        self._noun = noun

    def render(self, task: Task) -> Text:
        """Images per second over the whole run so far."""
        spent = task.elapsed or 0.0
        return Text(f"{task.completed / spent:.1f} {self._noun}/s" if spent > 0 else "", style="progress.data.speed")


@contextmanager
def progress(label: str, *, quiet: bool, noun: str = "images") -> Iterator[Show]:
    """A bar on a terminal, with rate and time left; elsewhere a line every ten seconds; nothing when quiet."""
    if quiet or not output.err.is_terminal:
        yield _Notes(noun, quiet=quiet)
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), _RateColumn(noun), TimeRemainingColumn())
    with Progress(*columns, console=output.err, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block Ctrl-C says that the command can be run again."""
    try:
        yield
    except KeyboardInterrupt:
        output.note("stopped; what is done is kept: run it again and it goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def note_failures(failures: Sequence[ImageFailure | AddResult]) -> None:
    """Names the images that failed, and why, on stderr."""
    for failure in failures[:SHOWN_FAILURES]:
        why = f"{failure.error.reason}: {failure.error.message}" if failure.error else "no reason given"
        output.note(f"failed: {failure.image_id}: {why}")
    if len(failures) > SHOWN_FAILURES:
        output.note(f"... and {len(failures) - SHOWN_FAILURES:,} more; --json lists all")


class _Notes:
    def __init__(self, noun: str, *, quiet: bool) -> None:
        self._noun = noun
        self._quiet = quiet
        self._begin = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or now - self._last < NOTE_INTERVAL_S or not done:
            return
        self._last = now
        rate = done / (now - self._begin)
        left = max(0, total - done) / rate
        output.note(f"{done:,} of {total:,} {self._noun}, {rate:.1f} {self._noun}/s, about {left:.0f} s left")
