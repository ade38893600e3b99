"""What there is: fetched models and whether they are as they came, those half there, and those that one could fetch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.common.fetched import fetched_folder, models_folder
from services.common.settings import Settings
from services.fetching import staging
from services.fetching.lock import problems, read_lock
from services.fetching.registry import known_models
from warmer.errors import DataLoss, NotFound

State = Literal["ok", "damaged", "no lock", "partial", "not fetched"]


@dataclass(frozen=True)
class Row:
    """A model and how it stands. `size` in bytes; `problems` are sentences, empty unless it is damaged."""

    name: str
    kind: str
    state: State
    size: int
    licence: str
    licence_url: str
    accept_licence: bool
    source: str
    revision: str
    folder: str
    problems: tuple[str, ...] = ()


def fetched_names(settings: Settings) -> list[str]:
    """Names of what lies in the folder of fetched models."""
    home = models_folder(settings)
    if not home.is_dir():
        return []
    return [_name_of(path) for path in sorted(home.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def partial_names(settings: Settings) -> list[str]:
    """Names of what an interrupted fetch left half there."""
    halves = sorted(models_folder(settings).glob(".*.part"))
    return [path.name.removeprefix(".").removesuffix(".part") for path in halves]


def _name_of(folder: Path) -> str:
    """The name as it was given to fetch; a folder's own name does not tell a slash from two dashes."""
    try:
        lock = read_lock(folder)
    except DataLoss:
        return folder.name
    return lock.name if lock and lock.name.replace("/", "--") == folder.name else folder.name


def survey(
    settings: Settings,
    names: Sequence[str],
    *,
    contents: bool,
    on_file: Callable[[str, int], object],
    on_bytes: Callable[[int], object],
) -> list[Row]:
    """How these models stand. With `contents` every byte is read, else sizes are compared alone."""
    rows = []
    for name in names:
        folder = fetched_folder(settings, name)
        rows.append(_row(name, folder, contents, on_file, on_bytes) if folder.is_dir() else _absent(name, folder))
    return rows


def check_fetched(settings: Settings, names: Sequence[str]) -> None:
    """Raises NotFound (NOT_FETCHED) if one of these has not been fetched."""
    there = fetched_names(settings)
    for name in names:
        if not fetched_folder(settings, name).is_dir():
            raise NotFound(
                f"{name} has not been fetched; fetched are: {', '.join(there) or 'none'}",
                reason="NOT_FETCHED",
                hint=f"warmer models fetch {name}",
            )


def remove(settings: Settings, name: str) -> int:
    """Removes a fetched model and what is left of interrupted fetches of it. Returns the bytes that this frees.

    Raises NotFound (NOT_FETCHED), FailedPrecondition (FETCH_RUNNING).
    """
    folder = fetched_folder(settings, name)
    if not staging.staging_folder(folder).is_dir():
        check_fetched(settings, [name])
    freed = 0
    with staging.staging(folder) as half:
        if folder.is_dir():
            freed += _size_of(folder)
            staging.remove(folder)
        freed += _size_of(half)
        staging.remove(half)
    return freed


def _row(
    name: str, folder: Path, contents: bool, on_file: Callable[[str, int], object], on_bytes: Callable[[int], object]
) -> Row:
    model = known_models().get(name)
    try:
        lock = read_lock(folder)
    except DataLoss as error:
        return _bare(name, folder, "damaged", (error.message,))
    if lock is None:
        return _bare(name, folder, "no lock", ("it has no warmer.lock, so there is nothing to check it against",))
    on_file(name, lock.size)
    wrong = tuple(problems(folder, lock, contents=contents, on_bytes=on_bytes))
    return Row(
        name=name,
        kind=lock.kind,
        state="damaged" if wrong else "ok",
        size=lock.size,
        licence=lock.licence,
        licence_url=lock.licence_url,
        accept_licence=bool(model and model.accept_licence),
        source=lock.source,
        revision=lock.revision,
        folder=str(folder),
        problems=wrong,
    )


def _absent(name: str, folder: Path) -> Row:
    half = staging.staging_folder(folder)
    return _bare(name, half, "partial" if half.is_dir() else "not fetched", ())


def _bare(name: str, folder: Path, state: State, wrong: tuple[str, ...]) -> Row:
    """A row of what the registry says alone."""
    model = known_models().get(name)
    return Row(
        name=name,
        kind=model.kind if model else "",
        state=state,
        size=_size_of(folder) if folder.is_dir() else 0,
        licence=model.licence if model else "",
        licence_url=model.licence_url if model else "",
        accept_licence=bool(model and model.accept_licence),
        source=(model.source or model.by_hand) if model else "",
        revision=model.revision if model else "",
        folder=str(folder) if folder.is_dir() else "",
        problems=wrong,
    )


def _size_of(folder: Path) -> int:
    """Bytes of the folder's own files; what links point to is somebody else's."""
    return sum(path.lstat().st_size for path in folder.iterdir())
