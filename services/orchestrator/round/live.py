"""A round that runs in this process: its events, for those who follow it here without asking Redis again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from services.orchestrator.store.rounds import LeaseLostError
from warmer.errors import WarmerError
from warmer.v1 import orchestrator_pb2 as pb


class LiveRound:
    """Events that are stored already, published to followers. Ends with a terminal round, an error, or a lost lease."""

    def __init__(self) -> None:
        self._events: list[pb.RefineSessionResponse] = []
        self._changed = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def publish(self, *events: pb.RefineSessionResponse) -> None:
        """Shows stored events to the followers."""
        self._events.extend(events)
        self._wake()

    def end(self, error: WarmerError | LeaseLostError | None = None) -> None:
        """No more events: the terminal round was published, or followers get `error`."""
        self._ended, self._error = True, error
        self._wake()

    async def follow(self) -> AsyncIterator[pb.RefineSessionResponse]:
        """All events from the first that was published here. Raises WarmerError or LeaseLostError."""
        position = 0
        while True:
            while position < len(self._events):
                yield self._events[position]
                position += 1
            if self._ended:
                break
            changed = self._changed
            await changed.wait()
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
