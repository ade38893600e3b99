"""grpc.health.v1 with watches that end when the server shuts down: a watch never ends by itself and would hold up every
drain for its whole time."""

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio  # type: ignore[attr-defined]

# Time for the watchers to be told before their streams end.
_LAST_WORD_S = 0.05

_Status = health_pb2.HealthCheckResponse


class Health(aio.HealthServicer):  # type: ignore[misc]
    """Health of the whole server (the name "") and of each service by its full name."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def set_serving(self, names: Iterable[str], serving: bool) -> None:
        """Tells probes and watchers whether these services can be called."""
        for name in names:
            await self.set(name, _Status.SERVING if serving else _Status.NOT_SERVING)

    async def shut_down(self) -> None:
        """NOT_SERVING for good; watchers hear it, then their streams end."""
        await self.enter_graceful_shutdown()
        if self._server_watchers:
            await asyncio.sleep(_LAST_WORD_S)
        self._ended.set()

    async def Watch(self, request: Any, context: Any) -> None:
        """Streams the status of one service whenever it changes, until the server shuts down."""
        watch = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watch, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            ended.cancel()
            await asyncio.gather(watch, ended, return_exceptions=True)
