"""``warmer models``: hands over to ``python -m services.models``, which knows the models.

The command line must work without the services, so their code runs in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from warmer.cli import options, output
from warmer.cli.stack import require_services
from warmer.errors import InvalidArgument

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=output.EPILOG,
    help="The models that the services run: bring them, check them, list them, remove them.",
)

From = Annotated[
    str, typer.Option("--from", help="Where to take it from: a URL, a folder or file of this machine, or a hub id.")
]
Revision = Annotated[
    str, typer.Option(help="Commit, branch or tag of the hub. (default: the pinned one, or the newest)")
]
Sha256 = Annotated[str, typer.Option(help="Sum that the weight file must have, in hex.")]
Files = Annotated[list[str], typer.Option(help="Pattern of the weight file to take, where a source has many.")]
AcceptLicence = Annotated[bool, typer.Option("--accept-licence", help="Accept its licence without being asked.")]
TokenEnv = Annotated[
    str, typer.Option(metavar="VARIABLE", help="Environment variable with the token. (default for the hub: HF_TOKEN)")
]
Link = Annotated[bool, typer.Option("--link", help="Link to the files of a folder instead of copying them.")]


@app.command()
def install(as_json: options.Json = False) -> None:
    """Bring the compact models: fetch their packages, check every sum, build what is built."""
    _run("install", as_json=as_json)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A name of `warmer models list`, a hub id, or with --from your own.")],
    *,
    source: From = "",
    revision: Revision = "",
    sha256: Sha256 = "",
    files: Files = [],  # noqa: B006 - typer reads it and never changes it
    accept_licence: AcceptLicence = False,
    token_env: TokenEnv = "",
    link: Link = False,
    as_json: options.Json = False,
) -> None:
    """Bring a big model. It appears whole or not at all; run it again after an interruption, and it goes on.

    Its licence is shown, and asked about where it must be accepted.

    Examples:

      warmer models fetch llava-v1.6-mistral-7b

      warmer models fetch llama-3.1-8b-instruct --accept-licence

      warmer models fetch chatir --from ~/Downloads/chatir_weights.ckpt

      warmer models fetch openai/clip-vit-large-patch14 --accept-licence
    """
    named = {"--from": source, "--revision": revision, "--sha256": sha256, "--token-env": token_env}
    arguments = [part for option, value in named.items() if value for part in (option, value)]
    arguments += [part for pattern in files for part in ("--files", pattern)]
    arguments += [flag for flag, on in (("--accept-licence", accept_licence), ("--link", link)) if on]
    _run("fetch", *arguments, "--", name, as_json=as_json)


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models to check; `compact` for the compact ones. (default: all)")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check every byte of the models against their sums. Exit code 1 if one is missing or wrong."""
    _run("verify", "--", *(names or []), as_json=as_json)


@app.command("list")
def list_models(as_json: options.Json = False) -> None:
    """The compact models, the fetched ones, and those that can be fetched, with size, state and licence."""
    _run("list", as_json=as_json)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A fetched model.")],
    *,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Remove a fetched model. Asks first, unless --yes is given."""
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidArgument(
                "removing needs a confirmation", reason="NOT_CONFIRMED", hint="Add --yes to remove without being asked."
            )
        typer.confirm(f"Remove {name}?", abort=True, err=True)
    _run("remove", "--", name, as_json=as_json)


def _run(verb: str, *arguments: str, as_json: bool) -> None:
    require_services()
    command = [sys.executable, "-m", "services.models", verb, *(["--json"] if as_json else []), *arguments]
    with subprocess.Popen(command) as process:
        code = _wait(process)
    if code:
        raise typer.Exit(code if code > 0 else output.EXIT_ERROR)


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the terminal has told the process too, and it has something to say
