"""``warmer caption``: captions a whole collection ahead of time, so that no round has to wait for captions."""

from __future__ import annotations

from typing import Annotated

import typer

from warmer._captioning import CaptionReport, caption, captioner
from warmer._settings import captioner_target
from warmer.cli import options, output
from warmer.cli.progress import interruptible, note_failures, progress


def caption_collection(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Id of the collection.", show_default=False)],
    *,
    limit: Annotated[int | None, typer.Option(min=1, help="Caption at most this many. (default: all)")] = None,
    max_edge: Annotated[
        int,
        typer.Option(
            min=16,
            envvar="WARMER_CAPTION_MAX_EDGE",
            help="Longer edge of the images that the captioner is handed, in pixels.",
        ),
    ] = 384,
    target: options.Target = None,
    embedder: options.Embedder = None,
    captioner_address: options.Captioner = None,
    as_json: options.Json = False,
) -> None:
    """Caption all images of a collection that have no caption yet, and keep the captions in it.

    A round then takes them from there, and waits for no captioner. It can be stopped at any time: run it again, and it
    goes on. Captions belong to the model and the prompt that wrote them; with another captioner, run it again.

    Example: warmer caption holidays
    """
    address = captioner_target(target, captioner_address)
    with (
        options.connect(target, embedder) as client,
        captioner(address) as stub,
        interruptible(),
        progress("captioning", quiet=as_json) as show,
    ):
        report = caption(client, collection, stub=stub, max_edge=max_edge, limit=limit, progress=show)
    if as_json:
        output.print_json(report)
    else:
        _summarise(report)
    if report.failures:
        raise typer.Exit(output.EXIT_PARTIAL)


def _summarise(report: CaptionReport) -> None:
    rate = report.stored / report.seconds if report.seconds > 0 else 0.0
    output.print_line(
        f"{output.counted(report.stored, 'image')} captioned in {report.seconds:.1f} s ({rate:.1f} images/s)"
    )
    output.print_facts({"model": report.model, "prompt": report.prompt_version, "without": report.missing})
    note_failures(report.failures)
