"""``warmer session``: starts, shows, branches and ends hunts."""

from __future__ import annotations

from typing import Annotated

import typer

from warmer.cli import options, output
from warmer.cli.refine import show_round
from warmer.types import SessionInfo, Strategy

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=output.EPILOG,
    help="Hunts: start one, search, look at its rounds, go back to one, end it. The next round is `warmer refine`.",
)
StrategyOption = Annotated[
    Strategy | None,
    typer.Option(help="How feedback becomes the next search. (default: the server's)", show_default=False),
]


@app.command()
def create(
    *,
    text: Annotated[str, typer.Option("--text", "-t", help="Search for this at once.")] = "",
    image: options.ExampleFile = None,
    similar_to: options.ExampleId = None,
    collection: options.CollectionOption = options.DEFAULT_COLLECTION,
    strategy: StrategyOption = None,
    page_size: Annotated[int | None, typer.Option(min=1, max=1000, help="Hits of a round.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    ttl_s: Annotated[float | None, typer.Option("--ttl", min=1, help="Seconds to keep it after its last use.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Its id; made by the server when left out.")] = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Start a hunt in a collection, with or without its first search.

    Example: warmer session create --text "a dog on grass" --page-size 20
    """
    with options.connect(target, embedder) as client:
        session = client.sessions.create(
            collection, strategy=strategy, page_size=page_size, display_name=name, ttl_s=ttl_s, id=id
        )
        first = None
        if text or image or similar_to:
            first = session.search(text, image=image, image_id=similar_to)
            session.refresh()
    if as_json:
        output.print_json({"session": session.info, "round": first})
        return
    output.print_line(session.id)
    if first is not None:
        show_round(first, as_json=False)
        output.note(f'next: warmer refine {session.id} --relevant @1 --comment "what differs"')
    else:
        output.note(f'next: warmer session search {session.id} "what you have in mind"')


@app.command()
def search(
    session: options.SessionArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What you have in mind.", show_default=False)] = "",
    *,
    image: options.ExampleFile = None,
    similar_to: options.ExampleId = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Round 0 of a hunt: by words, by an example image, or by both.

    Example: warmer session search SESSION "a dog on grass"
    """
    with options.connect(target, embedder) as client:
        first = client.sessions.get(session).search(text, image=image, image_id=similar_to)
    show_round(first, as_json=as_json)


@app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many.")] = 50,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """All hunts, newest first."""
    with options.connect(target, embedder) as client:
        found = [session for _, session in zip(range(limit), client.sessions.list(), strict=False)]
    if as_json:
        output.print_json(found)
        return
    output.print_table(
        ["session", "collection", "state", "rounds", "strategy", "name"],
        ([s.id, s.collection, s.state, s.round_count, s.strategy, s.display_name] for s in found),
    )


@app.command()
def show(
    session: options.SessionArgument,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """One hunt: its state, strategy, number of rounds, and when it expires."""
    with options.connect(target, embedder) as client:
        _show(client.sessions.get(session).info, as_json=as_json)


@app.command()
def rounds(
    session: options.SessionArgument,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """All rounds of a hunt: feedback, query and hits."""
    with options.connect(target, embedder) as client:
        found = list(client.sessions.get(session).rounds())
    if as_json:
        output.print_json(found)
        return
    for round in found:
        if round.feedback is not None:
            said = {
                "relevant": ", ".join(round.feedback.relevant),
                "irrelevant": ", ".join(round.feedback.irrelevant),
                "comment": round.feedback.comment,
            }
            output.print_facts(said)
        show_round(round, as_json=False)


@app.command()
def finish(
    session: options.SessionArgument,
    *,
    found: Annotated[str, typer.Option(help="Id of the image that was found; leave out if none was.")] = "",
    etag: Annotated[str | None, typer.Option(help="Refuse if the session has changed since this etag.")] = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """End a hunt, with its find or without.

    Example: warmer session finish SESSION --found holidays%2Fdog.jpg
    """
    with options.connect(target, embedder) as client:
        _show(client.sessions.get(session).finish(found, etag=etag), as_json=as_json)


@app.command()
def delete(
    session: options.SessionArgument,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Delete a hunt with its rounds. The images stay."""
    with options.connect(target, embedder) as client:
        client.sessions.delete(session)
    if as_json:
        output.print_json({"deleted": session})


@app.command()
def branch(
    session: options.SessionArgument,
    round: Annotated[
        int, typer.Argument(metavar="ROUND", min=0, help="Number of the round to start from.", show_default=False)
    ],
    *,
    strategy: StrategyOption = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    target: options.Target = None,
    embedder: options.Embedder = None,
    as_json: options.Json = False,
) -> None:
    """Start a new hunt from a round of another one: go back, and take another way.

    Example: warmer session branch SESSION 2
    """
    with options.connect(target, embedder) as client:
        made = client.sessions.create(parent_round=(session, round), strategy=strategy, display_name=name)
    if as_json:
        output.print_json({"session": made.info, "round": None})
        return
    output.print_line(made.id)
    output.note(f'next: warmer refine {made.id} --relevant @1 --comment "what differs"')


def _show(info: SessionInfo, *, as_json: bool) -> None:
    if as_json:
        output.print_json(info)
        return
    output.print_facts(
        {
            "session": info.id,
            "name": info.display_name,
            "collection": info.collection,
            "state": info.state,
            "found": info.found_image_id,
            "strategy": info.strategy,
            "rounds": info.round_count,
            "hits a round": info.page_size,
            "started from": "/".join(map(str, info.parent_round)) if info.parent_round else "",
            "created": info.create_time,
            "expires": info.expire_time,
            "etag": info.etag,
        }
    )
