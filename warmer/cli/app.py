"""The commands' root: what is there, what the exit codes mean, and the one place where errors become them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from warmer import __version__
from warmer.cli import (
    bench,
    caption,
    collections,
    demo,
    import_reference,
    index,
    models,
    output,
    refine,
    search,
    sessions,
    up,
)
from warmer.errors import WarmerError


class _Group(TyperGroup):
    """Turns errors of the SDK into messages and exit codes, for every command below."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WarmerError as error:
            output.fail(error)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    epilog=output.EPILOG,
    help=(
        "Find the photo that you have in mind: describe it, mark what is close, say what differs, get warmer.\n\n"
        "A first hunt:\n\n"
        "  warmer up                        [dim]# in another terminal[/dim]\n\n"
        "  warmer index my/photos\n\n"
        '  warmer search "a dog on grass"   [dim]# one search; a hunt has several rounds:[/dim]\n\n'
        '  warmer session create --text "a dog on grass"\n\n'
        '  warmer refine SESSION --relevant @3 --comment "but running"'
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print_line(f"warmer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Holds the options that belong to no command."""


app.command("demo", epilog=output.EPILOG)(demo.demo)
app.command("up", epilog=output.EPILOG)(up.up)
app.command("index", epilog=output.EPILOG)(index.index)
app.command("caption", epilog=output.EPILOG)(caption.caption_collection)
app.command("import-reference", epilog=output.EPILOG)(import_reference.import_reference)
app.command("search", epilog=output.EPILOG)(search.search)
app.command("refine", epilog=output.EPILOG)(refine.refine)
app.add_typer(sessions.app, name="session")
app.add_typer(collections.app, name="collections")
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")
