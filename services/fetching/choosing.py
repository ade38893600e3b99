"""Which of a checkpoint's files are wanted: one format of the weights, and the small files that loading needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

from warmer.errors import FailedPrecondition, InvalidArgument

# Best first. A repository often holds the same weights in several formats; safetensors cannot run code when it is read.
_FORMATS = (".safetensors", ".bin", ".gguf", ".pth", ".ckpt", ".pt")
_ONE_FILE = (".gguf", ".pth", ".ckpt", ".pt")  # several of them are several models
_SMALL = (".json", ".txt", ".model", ".jinja", ".md")
_NAMES = ("LICENSE", "NOTICE", "LICENCE")
_FOREIGN = ("tf_model", "flax_model", "consolidated", "adapter_", "training_args", "optimizer", "scheduler")


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return name.endswith(_FORMATS) and not name.startswith(_FOREIGN)


def choose(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The files to bring, of all that a source has; `patterns` choose among the weights, if given.

    Files in subfolders are left out: they hold other formats and training states.
    Raises InvalidArgument (NO_WEIGHTS or SEVERAL_MODELS).
    """
    top = sorted(name for name in names if "/" not in name and not name.startswith("."))
    weights = [n for n in top if is_weights(n) and (not patterns or any(fnmatch(n, p) for p in patterns))]
    if not weights:
        which = f" that match {' '.join(patterns)}" if patterns else ""
        raise InvalidArgument(
            f"there are no weights{which}: none of {', '.join(_FORMATS)}",
            reason="NO_WEIGHTS",
            hint="check the source; a checkpoint's weights lie beside its config.json",
        )
    ending = next(ending for ending in _FORMATS if any(name.endswith(ending) for name in weights))
    weights = [name for name in weights if name.endswith(ending)]
    if ending in _ONE_FILE and len(weights) > 1:
        raise InvalidArgument(
            f"there are {len(weights)} models: {', '.join(weights[:6])}{' ...' if len(weights) > 6 else ''}",
            reason="SEVERAL_MODELS",
            hint="choose one with --files, for example --files '*Q4_K_M*'",
        )
    return weights + [name for name in top if _is_small(name, ending)]


def _is_small(name: str, ending: str) -> bool:
    if name.endswith(".index.json"):  # it lists the parts of one format
        return name.endswith(f"{ending}.index.json") and not name.startswith(_FOREIGN)
    return name.endswith(_SMALL) or name.upper().startswith(_NAMES)


def check_complete(folder: Path, chosen: Iterable[str]) -> None:
    """Raises FailedPrecondition (MODEL_INCOMPLETE) when `chosen`, files of the folder, lack what loading needs."""
    names = set(chosen)
    weights = [name for name in names if is_weights(name)]
    missing = [] if weights else ["its weights"]
    if any(name.endswith((".safetensors", ".bin")) for name in weights) and "config.json" not in names:
        missing.append("config.json")
    for index in sorted(names):
        if index.endswith((".safetensors.index.json", ".bin.index.json")):
            missing += sorted(_parts(folder / index) - names)
    if missing:
        raise FailedPrecondition(
            f"the model is not whole; missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            reason="MODEL_INCOMPLETE",
            hint="check the source: the files lie together in one folder",
        )


def _parts(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FailedPrecondition(
            f"{index.name} is no list of the weights' parts: {error}",
            reason="MODEL_INCOMPLETE",
            hint="check the source; the file may be cut short",
        ) from error
