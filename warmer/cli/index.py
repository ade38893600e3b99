"""``warmer index``: a folder into a collection, with progress and a summary that names each failed file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from warmer.cli import options, output
from warmer.cli.progress import progress
from warmer.client import Client
from warmer.errors import AlreadyExists, NotFound
from warmer.types import FolderReport

SHOWN_FAILURES = 50


def index(
    directory: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Folder of images.")],
    collection: options.CollectionOption = options.DEFAULT_COLLECTION,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Add all images of a folder, and of those below it, to a collection.

    Makes the collection if it is missing. Run it again at any time: unchanged files cost little, changed ones are
    replaced. JPEG, PNG, WebP, GIF and BMP are recognised by content; files that are named like images but are none
    are reported, other files and hidden ones are left out. Image ids are the relative paths with / written as %2F.

    Example: warmer index ~/Pictures --collection holidays
    """
    with options.connect(target, embedder) as client:
        ensure_collection(client, collection)
        with progress("indexing", quiet=as_json) as show:
            report = client.collections.add_folder(
                collection, directory, progress=lambda state: show(state.done, state.total)
            )
    if as_json:
        output.print_json({"collection": collection, "total": report.total} | output.to_json(report))
    else:
        _summarise(collection, directory, report)
    if report.failures:
        raise typer.Exit(output.EXIT_PARTIAL)


def ensure_collection(client: Client, collection: str) -> None:
    """Makes the collection if it is missing."""
    try:
        client.collections.get(collection)
    except NotFound:
        try:
            client.collections.create(collection)
        except AlreadyExists:
            return  # another command was faster, which is as good
        output.note(f"made the collection {collection}")


def _summarise(collection: str, directory: Path, report: FolderReport) -> None:
    if report.total == 0:
        output.note(f"no images in {directory} ({output.counted(report.skipped, 'other file')})")
        return
    rate = report.total / report.seconds if report.seconds > 0 else 0.0
    output.print_line(f"{output.counted(report.total, 'image')} in {report.seconds:.1f} s ({rate:.1f} images/s)")
    output.print_facts(
        {
            "added": report.added,
            "replaced": report.replaced,
            "unchanged": report.unchanged,
            "failed": len(report.failures),
            "skipped": f"{report.skipped} (no images)" if report.skipped else "",
        }
    )
    for failure in report.failures[:SHOWN_FAILURES]:
        error = failure.error
        reason = f"{error.reason}: {error.message}" if error else "no reason given"
        output.note(f"failed: {failure.source or failure.image_id}: {reason}")
    if len(report.failures) > SHOWN_FAILURES:
        output.note(f"... and {len(report.failures) - SHOWN_FAILURES:,} more; --json lists all")
    output.note(f'next: warmer search "what you have in mind" --collection {collection}')
