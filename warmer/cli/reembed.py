"""``warmer collections reembed``: the same images under another model, the old vectors serving until all are there."""

from __future__ import annotations

from typing import Annotated

import typer

from warmer import _reembed
from warmer._reembed import GROUP_TIMEOUT_S, ReembedReport
from warmer.cli import options, output
from warmer.cli.progress import interruptible, note_failures, progress


def reembed(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Id of the collection.", show_default=False)],
    *,
    with_embedder: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="TARGET",
            help="Address of the embedder whose model makes the vectors. (default: the collection's own)",
            show_default=False,
        ),
    ] = None,
    forget: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Forget the kept vectors of this model instead.")
    ] = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Embed the images of a collection with another model. The old vectors serve until the new ones are complete.

    Either start the collection's embedder with the new model: the collection cannot be searched then until this is
    done, and is at once afterwards. Or run a second embedder with the new model, name it by --with, and restart the
    first one with that model when this is done. Stop it at any time: run it again, and it goes on. The vectors used
    before are kept, as the way back; --forget drops them.

    Example: warmer collections reembed holidays --with localhost:50061
    """
    with options.connect(target, embedder, timeout_s=GROUP_TIMEOUT_S) as client, interruptible():
        if forget is not None:
            client.collections.delete_vectors(collection, forget)
            if as_json:
                output.print_json({"collection": collection, "forgotten": forget})
            return
        other = options.connect(target, with_embedder or client.targets.embedder, timeout_s=GROUP_TIMEOUT_S)
        with other, progress("embedding", quiet=as_json) as show:
            report = _reembed.reembed(client, collection, embedder=other, progress=show)
    if as_json:
        output.print_json(report)
    else:
        _say_reembedded(report)
    if report.failures:
        raise typer.Exit(output.EXIT_PARTIAL)


def _say_reembedded(report: ReembedReport) -> None:
    rate = report.stored / report.seconds if report.seconds > 0 else 0.0
    output.print_line(
        f"{output.counted(report.stored, 'image')} embedded in {report.seconds:.1f} s ({rate:.1f} images/s)"
    )
    output.print_facts({"model": report.model, "without": report.missing})
    note_failures(report.failures)
    if report.missing:
        output.note(
            f"not complete: the other vectors serve until {output.counted(report.missing, 'image')} have theirs"
        )
        if report.failures:
            output.note("next: remove the images that cannot be embedded, and run this again")
    elif report.adopted:
        output.note(f"{report.collection} is searched with {report.model} now")
    else:
        output.note(
            f"complete; next: restart the embedder, which runs {report.server_model}, with {report.model}: "
            "it takes the new vectors over"
        )
