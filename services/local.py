"""All four services in one process, for the laptop: the same servicers on one server behind a private unix socket.

There is no second code path: the orchestrator talks to the others through ordinary stubs over that socket, so that
deadlines, streams, interceptors and errors are those between machines. Run it as a program with
`python -m services.local --socket PATH`.
"""

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from services.common.main import run

if TYPE_CHECKING:
    from services.common.main import Run
    from services.common.server import Build
    from services.common.settings import Settings

# Nothing heavy is imported up here: decode workers import the main module of the process that started them.


@asynccontextmanager
async def local_stack(settings: "Settings", *, socket_path: Path | None = None) -> AsyncIterator[str]:
    """Starts all four services, warms them, and yields the gRPC target that serves them all.

    Without `socket_path` the socket is in a new folder that only this user can enter, removed at the end. Raises what
    the services raise when they are built or warmed, and FailedPrecondition (ADDRESS_IN_USE, BAD_SOCKET_PATH).
    """
    from services.common.server import ServiceHost

    with _socket(socket_path) as path:
        target = f"unix:{path}"
        local = _pointing_to(settings, target)
        host = ServiceHost(local)
        try:
            for build in _builds():
                host.add(await build(local))
            await host.start(target)
            await host.warm()
            yield target
        finally:
            await host.stop(settings.drain_s)


def _builds() -> "list[Build]":
    """The four services; the orchestrator comes last, because its warming may call the others."""
    from services.captioner.service import build as build_captioner
    from services.embedder.service import build as build_embedder
    from services.orchestrator.service import build as build_orchestrator
    from services.rewriter.service import build as build_rewriter

    return [build_embedder, build_captioner, build_rewriter, build_orchestrator]


def _pointing_to(settings: "Settings", target: str) -> "Settings":
    """The settings with every service found at `target`."""
    names = ("orchestrator", "embedder", "captioner", "rewriter")
    return settings.with_changes(**{f"{name}_target": target for name in names})


@contextmanager
def _socket(wanted: Path | None) -> Iterator[Path]:
    """The path for the socket: the wanted one, its folder made if need be, or one in a private temporary folder."""
    if wanted is not None:
        wanted.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield wanted.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="warmer-", ignore_cleanup_errors=True) as folder:  # mode 0700
        yield Path(folder) / "warmer.sock"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the local stack until SIGTERM or SIGINT; returns the exit code, as `services.common.server.serve`."""
    parser = argparse.ArgumentParser(prog="python -m services.local", description="All four services in one process.")
    parser.add_argument("--socket", type=Path, help="unix socket to listen on; default: a private temporary one")
    parser.add_argument("--port", type=int, help="TCP port to listen on as well, on WARMER_HOST; 0 picks a free one")
    options = parser.parse_args(arguments)

    def prepare() -> "Run":
        return lambda settings: _serve(settings, options.socket, options.port)

    return run("local", prepare)


async def _serve(settings: "Settings", socket_path: Path | None, port: int | None) -> int:
    from services.common.server import serve_all

    with _socket(socket_path) as path:
        target = f"unix:{path}"
        addresses = [target] if port is None else [target, str(port)]
        return await serve_all(_pointing_to(settings, target), "local", addresses, _builds())


if __name__ == "__main__":
    sys.exit(main())
