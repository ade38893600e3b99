"""Fetches a model: looks into its source, asks for its licence, brings its files, checks them, and puts it in place."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from services.common.fetched import fetched_folder, models_folder
from services.common.settings import Settings
from services.fetching import copies, staging
from services.fetching.choosing import check_complete
from services.fetching.downloads import Downloads
from services.fetching.faults import check_space
from services.fetching.lock import Lock, LockedFile, problems, read_lock, write_lock
from services.fetching.progress import ProgressBar
from services.fetching.registry import KnownModel, known_models
from services.fetching.sources import Item, Plan, Source, look_into, parse_source
from warmer.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_UNKNOWN_LICENCE = "not known to Warmer; see its source"


@dataclass(frozen=True)
class Request:
    """What to fetch. `source`, `revision` and `sha256` are empty where the registry's are meant."""

    name: str
    source: str = ""
    revision: str = ""
    sha256: str = ""
    files: tuple[str, ...] = ()
    token_env: str = ""
    link: bool = False


@dataclass(frozen=True)
class Licence:
    """A model's licence, to be shown; `must_accept` asks for a yes."""

    model: str
    name: str
    url: str
    must_accept: bool


def fetch(settings: Settings, request: Request, accept: Callable[[Licence], str], progress: ProgressBar) -> Lock:
    """Brings a model into `fetched_folder`, or finds that it is there. Returns its lock.

    `accept` shows the licence and returns when and how it was accepted; it raises when it was not.

    Raises NotFound (UNKNOWN_MODEL), InvalidArgument, AlreadyExists (OTHER_SOURCE), FailedPrecondition, and what looking
    into the source and downloading raise. Whatever happens, the folder holds a whole model or is not there.
    """
    model = _known(request)
    if model and not request.revision and request.source in ("", model.hub):
        request = replace(request, revision=model.revision)
    target = fetched_folder(settings, request.name)
    if (there := _there(target, request)) is not None:
        return there
    source = _source(request, model)
    _check_apart(source, target)
    accepted = accept(_licence(request, model, source))
    models_folder(settings).mkdir(parents=True, exist_ok=True)
    with staging.staging(target) as folder:
        if (there := _there(target, request)) is not None:
            return there  # it came meanwhile
        plan = look_into(
            source,
            model,
            revision=request.revision,
            sha256=request.sha256,
            patterns=request.files,
            token_env=request.token_env,
        )
        staging.begin(folder, plan)
        check_space(folder, 0 if request.link else _wanted(plan, folder))
        files = _bring_all(plan, folder, request, progress)
        check_complete(folder, [file.path for file in files])
        lock = _lock(request, model, plan, accepted, files)
        staging.keep_only(folder, {file.path for file in files})
        write_lock(folder, lock)
        staging.publish(folder, target)
    return lock


def _known(request: Request) -> KnownModel | None:
    """The registry's entry; None for a model of the user's own choice."""
    if not _NAME.fullmatch(request.name):
        raise InvalidArgument(
            f"{request.name!r} is no name for a model: letters, digits, dots, dashes and one slash",
            reason="BAD_NAME",
            hint="choose another",
            field="name",
        )
    return known_models().get(request.name)


def _source(request: Request, model: KnownModel | None) -> Source:
    if request.source:
        return parse_source(request.source)
    if model is None and "/" in request.name:
        return Source("hub", request.name)
    if model is None:
        raise NotFound(
            f"no model {request.name!r} is known; known are {', '.join(known_models())}",
            reason="UNKNOWN_MODEL",
            hint="for any other, give a hub id as the name, or --from and a name of your choice",
        )
    if not model.source:
        raise InvalidArgument(
            f"{model.name} cannot be fetched by a program: {model.by_hand}",
            reason="BY_HAND",
            hint=f"then: warmer models fetch {model.name} --from {model.file}",
            field="from",
        )
    return Source("hub", model.hub) if model.hub else Source("url", model.url)


def _there(target: Path, request: Request) -> Lock | None:
    """The lock of what lies there already, if that is what is asked for."""
    if not target.exists():
        return None
    remove = f"`warmer models remove {request.name}`, then fetch it again"
    lock = read_lock(target)
    if lock is None:
        raise AlreadyExists(
            f"{target} holds files that no fetch put there: it has no lock", reason="OTHER_SOURCE", hint=remove
        )
    wrong = problems(target, lock, contents=False, on_bytes=_ignore)
    if wrong:
        raise DataLoss(f"{request.name} is there, but damaged: {wrong[0]}", reason="MODEL_DAMAGED", hint=remove)
    if _is_other(request, lock):
        raise AlreadyExists(
            f"{request.name} is there already, from {lock.source}" + (f" at {lock.revision}" if lock.revision else ""),
            reason="OTHER_SOURCE",
            hint=f"to replace it: {remove}",
        )
    return lock


def _is_other(request: Request, lock: Lock) -> bool:
    """Whether another model is asked for. What a branch points to today only the hub knows: it counts as another."""
    if request.revision and lock.revision and request.revision != lock.revision:
        return True
    source = parse_source(request.source) if request.source else None
    if source is None or source.recorded == lock.source:
        return False
    origin = read_lock(Path(source.place)) if Path(source.place).is_dir() else None
    return origin is None or origin.files != lock.files  # else a copy of the same


def _check_apart(source: Source, target: Path) -> None:
    if source.kind == "local" and Path(source.place).resolve().is_relative_to(target.parent.resolve()):
        raise InvalidArgument(
            f"{source.place} is itself a fetched model",
            reason="BAD_SOURCE",
            hint="use it by its name; `warmer models list` shows the names",
            field="from",
        )


def _licence(request: Request, model: KnownModel | None, source: Source) -> Licence:
    if model is not None:
        return Licence(request.name, model.licence, model.licence_url, model.accept_licence)
    where = f"https://huggingface.co/{source.place}" if source.kind == "hub" else source.recorded
    return Licence(request.name, _UNKNOWN_LICENCE, where, source.kind != "local")


def _wanted(plan: Plan, folder: Path) -> int:
    """Bytes that are still to come, as far as sizes are known."""
    total = 0
    for item in plan.items:
        for path in (folder / item.path, folder / f"{item.path}.part"):
            have = path.stat().st_size if path.is_file() else 0
            if have:
                break
        total += max(0, (item.size or 0) - have)
    return total


def _bring_all(plan: Plan, folder: Path, request: Request, progress: ProgressBar) -> tuple[LockedFile, ...]:
    if plan.kind != "local":
        if request.link:
            raise InvalidArgument("--link fits a folder or file of this machine", reason="BAD_OPTION", field="link")
        downloads = Downloads(progress, plan.kind, plan.source, request.token_env)
        return tuple(downloads.bring(item, folder) for item in plan.items)
    return tuple(_bring_local(item, folder, request.link, progress) for item in plan.items)


def _bring_local(item: Item, folder: Path, link: bool, progress: ProgressBar) -> LockedFile:
    progress.start(item.path, item.size)
    return (copies.link if link else copies.copy)(item, folder, progress.advance)


def _lock(request: Request, model: KnownModel | None, plan: Plan, accepted: str, files: tuple[LockedFile, ...]) -> Lock:
    return Lock(
        name=request.name,
        kind=model.kind if model else "",
        source=plan.source,
        revision=plan.revision,
        licence=model.licence if model else _UNKNOWN_LICENCE,
        licence_url=model.licence_url if model else "",
        accepted=accepted,
        fetched=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        files=files,
    )


def _ignore(_size: int) -> None:
    """Nobody watches a check of sizes."""
