"""Re-attachment of a running round, shared by both clients: what was seen, and whether to try again.

A round goes on at the server when its stream breaks. The same request id attaches to it again and replays its events
from the first, so those that were seen are dropped here by their sequence.
"""

from __future__ import annotations

import random
import time

from warmer.errors import DeadlineExceeded, Internal, Unavailable, WarmerError
from warmer.types import Event, RoundReady
from warmer.types.events import event_from_proto
from warmer.v1 import orchestrator_pb2

MAX_ATTACHMENTS = 6
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 3.0


class Attachment:
    """State of one refine call over all its streams."""

    def __init__(self, timeout_s: float) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._seen = 0
        self._breaks = 0
        self._done = False

    @property
    def remaining_s(self) -> float:
        """Seconds left for the whole call. Raises DeadlineExceeded when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(
                f"the round did not end within {self._timeout_s:g} s",
                reason="DEADLINE_EXCEEDED",
                hint="Give it more time (timeout_s); the same request_id attaches to it again.",
            )
        return left

    def done(self) -> bool:
        """Whether the round has come."""
        return self._done

    def take(self, message: orchestrator_pb2.RefineSessionResponse) -> Event | None:
        """The event in a message, or None if it was seen before or is of an unknown kind."""
        if message.sequence and message.sequence <= self._seen:
            return None
        self._seen = max(self._seen, message.sequence)
        event = event_from_proto(message)
        self._done = self._done or isinstance(event, RoundReady)
        return event

    def after_break(self, error: WarmerError) -> float:
        """Seconds to wait before attaching again; raises the error if that is no use."""
        self._breaks += 1
        if not isinstance(error, Unavailable) or self._breaks >= MAX_ATTACHMENTS:
            raise error
        longest = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (self._breaks - 1))
        wait: float = longest * random.uniform(0.7, 1.0)  # noqa: S311 -- spreads clients, no secret
        if error.retry_after_s is not None:
            wait = max(wait, error.retry_after_s)
        return min(wait, self.remaining_s)

    def check_ended(self) -> None:
        """Raises Internal if the stream ended well but without its round."""
        if not self._done:
            raise Internal(
                "the server ended the round's stream without the round",
                reason="NO_TERMINAL_ROUND",
                hint="The orchestrator's log says more.",
            )


def round_of(event: Event | None) -> RoundReady:
    """The last event of a stream, which is its round."""
    if not isinstance(event, RoundReady):
        raise Internal("the round's stream had no round", reason="NO_TERMINAL_ROUND")
    return event
