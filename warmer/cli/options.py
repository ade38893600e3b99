"""Options that many commands share, and the client that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from warmer.channel import DEFAULT_TIMEOUT_S
from warmer.client import Client

Target = Annotated[
    str | None,
    typer.Option(
        envvar="WARMER_TARGET",
        help="Address of the orchestrator, host:port or unix:PATH. (default: localhost:50050)",
        show_default=False,
        rich_help_panel="Connection",
    ),
]
Embedder = Annotated[
    str | None,
    typer.Option(
        envvar="WARMER_EMBEDDER_TARGET",
        help="Address of the embedder. (default: the next port of --target's host; the same unix socket)",
        show_default=False,
        rich_help_panel="Connection",
    ),
]
Captioner = Annotated[
    str | None,
    typer.Option(
        "--captioner",
        envvar="WARMER_CAPTIONER_TARGET",
        help="Address of the captioner. (default: the second port after --target's; the same unix socket)",
        show_default=False,
        rich_help_panel="Connection",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
CollectionOption = Annotated[
    str, typer.Option("--collection", "-c", envvar="WARMER_COLLECTION", help="Id of the collection.")
]
ExampleFile = Annotated[
    Path | None, typer.Option("--image", exists=True, dir_okay=False, help="An image file like the one in mind.")
]
ExampleId = Annotated[str | None, typer.Option("--similar-to", help="Id of an image of the collection like it.")]
SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="Id of the session.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

DEFAULT_COLLECTION = "photos"


def connect(target: str | None, embedder: str | None, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Client:
    """The client of the connection options; ``timeout_s`` is the deadline of a call.

    An embedder that came with an explicit target wins; see :class:`warmer.Client` for the defaults.
    """
    return Client(target, embedder=embedder, timeout_s=timeout_s)
