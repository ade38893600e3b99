"""Where a model may come from, and the files that a source has: a URL, a file or folder of this machine, or the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from services.fetching.choosing import check_complete, choose, is_weights
from services.fetching.lock import Lock, read_lock
from services.fetching.registry import KnownModel
from warmer.errors import InvalidArgument, NotFound

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Item:
    """A file to bring. `size` in bytes, where it is known; `sha256` is empty where it is not."""

    path: str
    place: str
    size: int | None = None
    sha256: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # they may hold a token


@dataclass(frozen=True)
class Plan:
    """What there is to bring. `source` and `revision` are recorded, so they hold no secrets."""

    kind: Literal["hub", "url", "local"]
    source: str
    revision: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Source:
    """A source before anybody looked into it."""

    kind: Literal["hub", "url", "local"]
    place: str

    @property
    def recorded(self) -> str:
        """As the lock names it: an absolute path, a hub id, or a URL without user, password and signature."""
        if self.kind == "local":
            return str(Path(self.place).resolve())
        if self.kind == "hub":
            return self.place
        parts = urlsplit(self.place)
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit((parts.scheme, f"{parts.hostname}{port}", parts.path, "", ""))


def parse_source(text: str) -> Source:
    """The source that `--from` means. Raises InvalidArgument (BAD_SOURCE)."""
    if text.startswith(("http://", "https://")):
        return Source("url", text)
    path = Path(text).expanduser()
    if path.exists():
        return Source("local", str(path))
    if _HUB_ID.fullmatch(text):
        return Source("hub", text)
    raise InvalidArgument(
        f"{text} is no source: there is no such file or folder, and it is neither a URL nor a hub id",
        reason="BAD_SOURCE",
        hint="give --from a folder, a file, https://..., or an id such as openai/clip-vit-base-patch32",
        field="from",
    )


def look_into(
    source: Source, model: KnownModel | None, *, revision: str, sha256: str, patterns: Sequence[str], token_env: str
) -> Plan:
    """The files to bring from a source. Only the hub is asked over the network.

    Raises InvalidArgument, NotFound, FailedPrecondition, and what `hub.look_into` raises.
    """
    if revision and source.kind != "hub":
        raise InvalidArgument(
            "--revision fits sources on the hub alone", reason="BAD_OPTION", hint="leave it out", field="revision"
        )
    if sha256 and not _SHA256.fullmatch(sha256.lower()):
        raise InvalidArgument(
            f"{sha256!r} is no sha256: it has 64 hex digits", reason="BAD_OPTION", hint="check --sha256", field="sha256"
        )
    if source.kind == "hub":
        from services.fetching import hub  # its client is slow to import

        plan = hub.look_into(source.place, revision, patterns, token_env)
    elif source.kind == "url":
        plan = _url(source, model, token_env)
    else:
        plan = _local(source, patterns)
    own = model.sha256 if model and not sha256 and source.place == model.source else ""
    return _expecting(plan, sha256.lower() or own)


def _url(source: Source, model: KnownModel | None, token_env: str) -> Plan:
    name = model.file if model and model.file else unquote(urlsplit(source.place).path.rsplit("/", 1)[-1])
    if not is_weights(name) or name.startswith(".") or "/" in name:
        raise InvalidArgument(
            f"{source.recorded} ends in no name of a weight file",
            reason="BAD_SOURCE",
            hint="give the URL of a .pth, .ckpt or .gguf file; what has several files comes from the hub or a folder",
            field="from",
        )
    headers = {"Authorization": f"Bearer {_token(token_env)}"} if token_env else {}
    size = model.size if model and model.size and source.place == model.url else None
    return Plan("url", source.recorded, "", (Item(name, source.place, size, headers=headers),))


def _token(variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise InvalidArgument(
            f"the environment has no {variable}", reason="NO_TOKEN", hint=f"export {variable}=...", field="token_env"
        )
    return value


def _local(source: Source, patterns: Sequence[str]) -> Plan:
    path = Path(source.place).resolve()
    folder, names = (path, _names(path)) if path.is_dir() else (path.parent, [path.name])
    chosen = choose(names, patterns)
    check_complete(folder, chosen)
    lock = read_lock(folder) if path.is_dir() else None
    locked = {file.path: file for file in lock.files} if lock else {}
    items = [
        Item(
            name,
            str(folder / name),
            locked[name].size if name in locked else (folder / name).stat().st_size,
            locked[name].sha256 if name in locked else "",
        )
        for name in chosen
    ]
    return Plan("local", *_origin(source, lock), tuple(items))


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.is_file()]


def _origin(source: Source, lock: Lock | None) -> tuple[str, str]:
    """A copied folder that brings its lock along keeps saying where it first came from."""
    return (lock.source, lock.revision) if lock else (source.recorded, "")


def _expecting(plan: Plan, sha256: str) -> Plan:
    """The plan with this sum expected of its weights."""
    if not sha256:
        return plan
    weights = [item for item in plan.items if is_weights(item.path)]
    if len(weights) > 1:
        raise InvalidArgument(
            f"--sha256 fits a model with one weight file; this one has {len(weights)}",
            reason="BAD_OPTION",
            hint="leave it out: the hub names the sums of its files itself",
            field="sha256",
        )
    if weights[0].sha256 and weights[0].sha256 != sha256:
        raise NotFound(
            f"the source says that {weights[0].path} has sha256 {weights[0].sha256}, not {sha256}",
            reason="WRONG_SHA256",
            hint="check --sha256 and --revision",
        )
    items = tuple(
        Item(item.path, item.place, item.size, sha256 if item is weights[0] else item.sha256, item.headers)
        for item in plan.items
    )
    return Plan(plan.kind, plan.source, plan.revision, items)
