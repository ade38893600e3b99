"""``warmer import-reference``: hands over to ``python -m services.embedder.import_reference``, which knows FAISS.

The command line must work without the services, so their code runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from warmer._settings import Targets
from warmer.cli import options, output
from warmer.cli.stack import require_services


def import_reference(
    collection: Annotated[
        str,
        typer.Argument(metavar="COLLECTION", help="Id of the collection; made if it is missing.", show_default=False),
    ],
    *,
    index: Annotated[
        Path, typer.Option("--index", exists=True, dir_okay=False, help="The FAISS index.", show_default=False)
    ],
    ids: Annotated[
        Path,
        typer.Option(
            "--ids", exists=True, dir_okay=False, help="The pickled map of numbers and images.", show_default=False
        ),
    ],
    images: Annotated[
        Path, typer.Option("--images", exists=True, file_okay=False, help="Folder of the images.", show_default=False)
    ],
    model: Annotated[
        str,
        typer.Option("--model", help="Identity of the model that made the vectors. (default: the collection's)"),
    ] = "",
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Take over an index of the reference implementation: its vectors and its images.

    Nothing is embedded again, so the vectors must be those of the collection's model. The pickle is read by a reader
    that knows plain containers, numbers and strings alone; anything else in it is refused. Exit code 3 if some images
    are missing or cannot be added.

    Example: warmer import-reference flickr --index flickr.index --ids ids.pkl --images flickr30k_images
    """
    require_services()
    targets = Targets.resolve(target, embedder)
    arguments = [collection, "--index", str(index), "--ids", str(ids), "--images", str(images), "--model", model]
    addresses = ["--target", targets.orchestrator, "--embedder", targets.embedder]
    command = [sys.executable, "-m", "services.embedder.import_reference", *arguments, *addresses]
    code = subprocess.run([*command, *(["--json"] if as_json else [])], check=False).returncode
    if code:
        raise typer.Exit(code if code > 0 else output.EXIT_ERROR)
