"""How long a run waits for a service that is away, and when it stops waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from warmer.errors import ResourceExhausted, Unavailable, WarmerError

T = TypeVar("T")

_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


class Patience:
    """Repeats calls that find a service away, or its queue full, for up to `seconds`.

    The time counts from the first failure of that kind of call until one succeeds again, over all hunts: when a
    service stays away, one hunt after the other fails at once, instead of each after a wait of its own.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._away_since: dict[str, float] = {}

    async def __call__(self, kind: str, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result. `call` must be safe to repeat; its last error is raised when the time is up."""
        wait = _FIRST_WAIT_S
        while True:
            try:
                result = await call()
            except (Unavailable, ResourceExhausted) as error:
                await asyncio.sleep(self._wait(kind, error, wait))
                wait = min(_LONGEST_WAIT_S, wait * 2)
            else:
                self._away_since.pop(kind, None)
                return result

    def _wait(self, kind: str, error: WarmerError, wait: float) -> float:
        """Seconds to wait; raises the error when that is no use."""
        if isinstance(error, ResourceExhausted):
            if error.retry_after_s is None:
                raise error  # a message that is too large, say: it will be as large the next time
            wait = max(wait, error.retry_after_s)
        since = self._away_since.setdefault(kind, time.monotonic())
        if time.monotonic() + wait > since + self._seconds:
            raise error
        return wait
