"""The command line: ``warmer``. It is a thin layer over the SDK, and :func:`main` is its entry point.

typer and rich are imported here and not by the SDK, whose users may have no terminal.
"""

import os

from warmer.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Runs the command line and exits with its code; see ``warmer --help`` for the codes."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what gRPC would print, our own errors say better
    app(prog_name="warmer")
