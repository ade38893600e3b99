"""``warmer search``: one search without a session; and how hits are shown everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from warmer.cli import options, output
from warmer.types import Hit, Truncation


def search(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What you have in mind.", show_default=False)
    ] = None,
    *,
    collection: options.CollectionOption = options.DEFAULT_COLLECTION,
    image: options.ExampleFile = None,
    similar_to: options.ExampleId = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=10_000, help="How many hits.")] = 10,
    min_similarity: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Leave out hits less similar than this.")
    ] = None,
    rerank: Annotated[
        int,
        typer.Option(min=0, max=1000, help="Re-rank this many of the best hits by the model's matching head (BLIP)."),
    ] = 0,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Search a collection by words, by an example image, or by both.

    Examples:

      warmer search "two dogs on a beach" -k 20

      warmer search --image sketch.png --min-similarity 0.3

      warmer search "at night" --similar-to holidays%2Fharbour.jpg

      warmer search "a red bicycle against a wall" --rerank 50
    """
    with options.connect(target, embedder) as client:
        result = client.search(
            collection,
            text,
            image=image,
            image_id=similar_to,
            top_k=top_k,
            min_similarity=min_similarity,
            rerank=rerank,
        )
    if as_json:
        output.print_json(result)
        return
    show_hits(result.hits)
    show_truncations(result.truncations)


def show_hits(hits: Sequence[Hit]) -> None:
    """Hits as a table; numbers count from 1 and can be given as @1, @2, ... to ``warmer refine``."""
    if not hits:
        output.note("no hits")
        return
    more = []
    if any(hit.score != hit.similarity for hit in hits):
        more.append("score")
    if any(hit.match is not None for hit in hits):
        more.append("match")
    rows = (
        [number, hit.image_id, hit.similarity, *(getattr(hit, name) for name in more)]
        for number, hit in enumerate(hits, 1)
    )
    output.print_table(["", "image", "similarity", *more], rows)


def show_truncations(truncations: Iterable[Truncation]) -> None:
    """Says on stderr what the encoder did not read."""
    for truncation in truncations:
        output.note(
            f"note: the text has {truncation.tokens} tokens; the encoder read the first {truncation.max_tokens}"
        )
