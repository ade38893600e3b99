"""``warmer collections``: makes, shows and deletes collections, and handles single images."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path, PurePath
from typing import Annotated

import typer

from warmer.cli import options, output, reembed
from warmer.cli.index import ensure_collection
from warmer.errors import InvalidArgument
from warmer.names import image_id_from_path
from warmer.types import AddResult, Collection, NewImage, VectorSet

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=output.EPILOG,
    help="Searchable sets of images. A whole folder goes in with `warmer index`.",
)
Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Id of the collection.", show_default=False)]


@app.command()
def create(
    collection: Name,
    description: Annotated[str, typer.Option(help="Free text for people.")] = "",
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Make an empty collection. (`warmer index` makes a missing one by itself.)

    Example: warmer collections create holidays --description "2019 to 2024"
    """
    with options.connect(target, embedder) as client:
        _show(client.collections.create(collection, description=description), as_json=as_json)


@app.command("list")
def list_collections(
    target: options.Target = None, embedder: options.Embedder = None, as_json: options.Json = False
) -> None:
    """All collections."""
    with options.connect(target, embedder) as client:
        found = list(client.collections.list())
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ["collection", "images", "state", "model", "description"],
        ([c.id, c.image_count, c.state, c.model, c.description] for c in found),
    )


@app.command()
def show(
    collection: Name,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """One collection: its size, model and state."""
    with options.connect(target, embedder) as client:
        _show(client.collections.get(collection), as_json=as_json)


@app.command()
def delete(
    collection: Name,
    yes: options.Yes = False,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Delete a collection with its images. Asks first, unless --yes is given."""
    with options.connect(target, embedder) as client:
        found = client.collections.get(collection)
        if not yes:
            _ask(f"Delete {collection} with {output.counted(found.image_count, 'image')}?", as_json=as_json)
        client.collections.delete(collection)
    if as_json:
        output.print_json({"deleted": collection})


@app.command()
def images(
    collection: Name,
    limit: Annotated[int | None, typer.Option(min=1, help="Show at most this many. (default: all)")] = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """The images of a collection, by id."""
    with options.connect(target, embedder) as client:
        found = [
            image
            for number, image in zip(range(limit or sys.maxsize), client.collections.images(collection), strict=False)
        ]
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ["image", "type", "width", "height", "bytes"],
        ([i.id, i.media_type, i.width, i.height, i.size_bytes] for i in found),
    )


@app.command()
def add(
    collection: Name,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Image files; their names become the ids.")],
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Add single image files; an id that exists is replaced. Makes the collection if it is missing.

    Example: warmer collections add holidays dog.jpg cat.png
    """
    new = [NewImage(image_id_from_path(PurePath(file.name)), file, source=_source(file)) for file in files]
    twice = [id for id, count in Counter(image.id for image in new).items() if count > 1]
    if twice:
        raise InvalidArgument(
            f"two files have the name {twice[0]!r}, which would be their id",
            reason="BAD_ID",
            field="image_id",
            hint="Add them one by one under other names, or index their folder.",
        )
    with options.connect(target, embedder) as client:
        ensure_collection(client, collection)
        results = list(client.collections.add_images(collection, new))
    if as_json:
        output.print_json(results)
    else:
        output.print_table(["image", "outcome", "why"], ([r.image_id, r.outcome, _why(r)] for r in results))
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(output.EXIT_PARTIAL)


@app.command()
def remove(
    collection: Name,
    image_ids: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Ids of the images.")],
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Remove images from a collection. Exit code 3 if some were not there.

    Example: warmer collections remove holidays beach%2Fdog.jpg
    """
    with options.connect(target, embedder) as client:
        result = client.collections.remove(collection, image_ids)
    if as_json:
        output.print_json(result)
    else:
        output.print_line(f"removed {output.counted(result.removed_count, 'image')}")
        for id in result.missing_image_ids:
            output.note(f"not there: {id}")
    if result.missing_image_ids:
        raise typer.Exit(output.EXIT_PARTIAL)


@app.command("export-image")
def export_image(
    collection: Name,
    image_id: Annotated[str, typer.Argument(metavar="IMAGE", help="Id of the image.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.", show_default=False)],
    max_edge: Annotated[
        int, typer.Option(min=0, help="Longer edge of the JPEG to write, in pixels; 0 writes the stored file.")
    ] = 0,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Write an image of a collection to a file, as it was added or made smaller.

    Example: warmer collections export-image holidays beach%2Fdog.jpg --out dog.jpg --max-edge 800
    """
    with options.connect(target, embedder) as client:
        content = client.collections.image_bytes(collection, image_id, max_edge=max_edge)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise InvalidArgument(
            f"cannot write {out}: {error.strerror}", reason="UNWRITABLE_FILE", hint="Choose another --out."
        ) from error
    if as_json:
        output.print_json({"image_id": image_id, "out": out, "size_bytes": len(content)})
    else:
        output.print_line(f"{out}  {len(content):,} bytes")


app.command("reembed")(reembed.reembed)


def _source(file: Path) -> str:
    return str(file).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _why(result: AddResult) -> str:
    return f"{result.error.reason}: {result.error.message}" if result.error else ""


def _ask(question: str, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise InvalidArgument(
            "deleting needs a confirmation", reason="NOT_CONFIRMED", hint="Add --yes to delete without being asked."
        )
    typer.confirm(question, abort=True, err=True)


def _kept(kept: VectorSet, collection: Collection) -> str:
    return f"{kept.model} for {kept.image_count:,} of {output.counted(collection.image_count, 'image')}"


def _show(collection: Collection, *, as_json: bool) -> None:
    if as_json:
        output.print_json(collection)
        return
    output.print_facts(
        {
            "collection": collection.id,
            "description": collection.description,
            "images": collection.image_count,
            "bytes": collection.content_bytes,
            "model": f"{collection.model} ({collection.dimensions} dimensions, {collection.distance})",
            "kept vectors": "; ".join(_kept(kept, collection) for kept in collection.vector_sets),
            "state": collection.state,
            "revision": collection.revision,
            "created": collection.create_time,
            "changed": collection.update_time,
        }
    )
