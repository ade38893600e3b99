"""`warmer demo`: the main job in one command. Starts the services, indexes photographs, hunts, draws the rounds.

With a terminal it asks; without one, or with --scripted, it plays a hunt by itself and exits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from warmer.cli import contact_sheet, output
from warmer.cli.gallery import write_gallery
from warmer.cli.hunt import Hunt, ask, play
from warmer.cli.index import ensure_collection
from warmer.cli.stack import Stack, four_services, require_services
from warmer.client import Client
from warmer.types import FolderProgress

COLLECTION = "demo"
_START_S = 300.0
_DRAIN_S = 5.0

Images = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Your own photographs. (default: a sample gallery)"),
]
Out = Annotated[Path, typer.Option(help="Folder for the gallery, the collection, logs and the contact sheet.")]
Scripted = Annotated[bool, typer.Option("--scripted", help="Play a hunt without asking.")]
Query = Annotated[str, typer.Option(help="What to look for first; for --scripted with your own photographs.")]


def demo(*, images: Images = None, out: Out = Path("demo"), scripted: Scripted = False, query: Query = "") -> None:
    """Start everything, index some photographs, and hunt for one of them.

    Examples:

      warmer demo

      warmer demo --images ~/Pictures/holiday
    """
    require_services()
    out = out.absolute()
    if images is None:
        write_gallery(out / "gallery")
    with _services(out) as client:
        _index(client, images or out / "gallery")
        session = client.sessions.create(COLLECTION, strategy="rewrite", page_size=4)
        hunt = Hunt(session)
        if scripted or not sys.stdin.isatty():
            play(hunt, query, own=images is not None)
        else:
            ask(hunt)
        if hunt.rows:
            sheet = out / "rounds.png"
            contact_sheet.draw(hunt.rows, lambda i: client.collections.image_bytes(COLLECTION, i, max_edge=320), sheet)
            output.print_line(f"\nThe rounds on one picture: {sheet}")
    _say_what_next()


def _index(client: Client, folder: Path) -> None:
    ensure_collection(client, COLLECTION)
    began = time.perf_counter()
    report = client.collections.add_folder(COLLECTION, folder, progress=_show_progress)
    output.note("")
    seconds = time.perf_counter() - began
    output.print_line(
        f"{report.added + report.replaced} photographs indexed, {report.unchanged} were there already, {seconds:.1f} s"
    )
    for failure in report.failures:
        output.print_line(f"  not indexed: {failure.source or failure.image_id}: {failure.error}")


def _show_progress(state: FolderProgress) -> None:
    if sys.stderr.isatty():
        output.err.print(f"\rindexing {state.done} / {state.total}", end="")


@contextmanager
def _services(out: Path) -> Iterator[Client]:
    """The four services as processes of their own, on free ports, with their data under `out`."""
    children, environment = four_services(out / "logs")
    environment |= {"WARMER_DATA_DIR": str(out / "data"), "WARMER_REWRITER_MODE": "model"}
    output.print_line("starting four services (the first start builds the models' files, which takes a minute or two)")
    began = time.perf_counter()
    with Stack(children, environment, _DRAIN_S) as stack:
        stack.wait_ready(_START_S, lambda child: output.print_line(f"  {child.name} is ready"), _wait_a_little)
        output.print_line(f"all are ready after {time.perf_counter() - began:.1f} s; logs are in {out / 'logs'}")
        targets = {child.name: child.target for child in children}
        with Client(targets["orchestrator"], embedder=targets["embedder"], round_timeout_s=120) as client:
            yield client


def _wait_a_little() -> bool:
    time.sleep(0.2)
    return True


def _say_what_next() -> None:
    output.print_line(
        "\nWhat to try next:\n"
        "  make demo IMAGES=~/Pictures                 the same with your own photographs\n"
        "  .venv/bin/warmer up                         the services, to stay\n"
        "  .venv/bin/warmer index ~/Pictures           a collection\n"
        '  .venv/bin/warmer search "a dog on grass"    one search; `warmer --help` has the rest'
    )
