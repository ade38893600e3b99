"""Bounds what all running AddImages streams together hold in memory, by items and by bytes."""

import asyncio
from collections import deque


class Budget:
    """Room for a number of items and bytes, given out in the order of asking. Belongs to one event loop."""

    def __init__(self, items: int, size: int) -> None:
        """`size` is in bytes."""
        self._items = items
        self._size = size
        self._free_items = items
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Waits for room for one item. An item larger than the whole budget waits until it is alone."""
        if not self._waiting and self._fits(size):
            self._hold(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(1, size)  # the room came together with the cancellation
            raise

    def give(self, items: int, size: int) -> None:
        """Gives room back: `size` bytes of `items` items."""
        self._free_items += items
        self._free += size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
            elif self._fits(wanted):
                self._waiting.popleft()
                self._hold(wanted)
                turn.set_result(None)
            else:
                return

    def _fits(self, size: int) -> bool:
        return self._free_items > 0 and (self._free >= size or self._free == self._size)

    def _hold(self, size: int) -> None:
        self._free_items -= 1
        self._free -= size
