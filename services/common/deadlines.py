"""What is left of the current call's deadline, so that every stage and every downstream call can be given its share."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from warmer.errors import DeadlineExceeded

# On the clock of time.monotonic(); None means that the caller set no deadline.
_deadline: ContextVar[float | None] = ContextVar("warmer_deadline", default=None)


def remaining_s() -> float | None:
    """Seconds left of the current call's deadline (negative once it has passed), or None when there is none."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


def check_deadline() -> None:
    """Raises DeadlineExceeded (reason DEADLINE_EXCEEDED) when the current call has no time left."""
    left = remaining_s()
    if left is not None and left <= 0:
        raise deadline_exceeded("the call's deadline has passed")


def deadline_exceeded(message: str) -> DeadlineExceeded:
    """The error of a call without time left."""
    return DeadlineExceeded(message, reason="DEADLINE_EXCEEDED", hint="give the call more time")


def budget_s(own_s: float, margin_s: float = 0.0) -> float:
    """Seconds that a step may take: `own_s`, or what is left of the deadline less `margin_s` if that is shorter.

    Raises DeadlineExceeded (reason DEADLINE_EXCEEDED) when nothing is left.
    """
    left = remaining_s()
    seconds = own_s if left is None else min(own_s, left - margin_s)
    if seconds <= 0:
        raise deadline_exceeded("too little of the deadline is left for this step")
    return seconds


def set_deadline(seconds: float | None) -> None:
    """Gives the current task a deadline of its own: `seconds` from now, None for none.

    For work that outlives the call that began it; the change is seen by this task and by tasks that it starts.
    """
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Within the block the deadline is at most `seconds` from now; a nearer one stays.

    It is only told to whoever asks `remaining_s`; to cut a step off use `asyncio.timeout(remaining_s())` as well.
    """
    end = time.monotonic() + seconds
    outer = _deadline.get()
    token = _deadline.set(end if outer is None else min(end, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


def timeout_for_rest() -> asyncio.Timeout:
    """An `asyncio.timeout` that ends with the current call's deadline; never when there is none."""
    return asyncio.timeout(remaining_s())
