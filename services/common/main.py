"""The few steps that every service's `__main__` takes, in the order that matters: settings, thread budget, imports.

A `__main__` imports this module and nothing else at its top:

    def load_build() -> Build:
        from services.embedder.service import build
        return build

    if __name__ == "__main__":
        sys.exit(run_service("embedder", load_build))
"""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.common.server import Build
    from services.common.settings import Settings

# A model that still computes on its thread would keep the process alive after the drain; orchestrators kill at 30 s.
_EXIT_S = 5.0

Run = Callable[["Settings"], Awaitable[int]]


def run(name: str, prepare: Callable[[], Run]) -> int:
    """Loads the settings, limits the threads, then imports and runs the service; returns the exit code.

    `prepare` imports the service and returns what runs it: it is called once the environment is set, since torch, ONNX
    Runtime and BLAS read it while they are imported. Code 2 means that a setting is wrong.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC would print, our own errors say better
    from services.common.threads import apply_thread_budget

    threads = os.environ.get("WARMER_THREADS", "")
    if threads.isdecimal():  # reading the settings imports numpy, whose BLAS looks at its variables right then
        apply_thread_budget(int(threads))

    from services.common.settings import load_settings
    from services.common.telemetry import configure_logging
    from warmer.errors import InvalidArgument

    try:
        settings = load_settings()
    except InvalidArgument as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    apply_thread_budget(settings.threads)
    configure_logging(settings, name)
    service = prepare()

    async def until_done() -> int:
        code = await service(settings)
        _exit_soon(code)
        return code

    return asyncio.run(until_done())


def run_service(name: str, load_build: "Callable[[], Build]") -> int:
    """As `run`, for one service on its own port: `load_build` imports and returns the service's `build`."""

    def prepare() -> Run:
        from services.common.server import serve

        build = load_build()
        return lambda settings: serve(settings, name, getattr(settings, f"{name}_port"), build)

    return run(name, prepare)


def _exit_soon(code: int) -> None:
    """Ends the process in a few seconds even if a worker thread does not."""
    timer = threading.Timer(_EXIT_S, os._exit, (code,))
    timer.daemon = True
    timer.start()
