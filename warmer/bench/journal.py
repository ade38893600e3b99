"""The file of a run: a header, then one line for each hunt, appended as queries end; and how a run goes on.

All hunts of a query are written together. A query counts as played when each of its arms has a line; whatever an
interruption left half written is dropped when the run goes on, and played again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from warmer.bench.records import Header, Hunt, read_header, read_hunts, to_line
from warmer.errors import DataLoss, InvalidArgument


class Journal:
    """Appends to the file of a run; ``played`` holds the ids of the queries that it had when it was opened."""

    def __init__(self, path: Path, header: Header, arms: Sequence[str], *, retry_failed: bool = False) -> None:
        """Starts the file, or goes on with it.

        Args:
            path: of the file.
            header: of this run; an existing file must have an equal one.
            arms: what is played for each query.
            retry_failed: drops queries of which a hunt has failed, so that they are played again.

        Raises:
            InvalidArgument: ``OTHER_SETTINGS``: the file is of a run with other settings; ``NOT_A_RUN``.
            DataLoss: ``RUN_DAMAGED``.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.played: frozenset[str] = frozenset()
        if _has_header(path):
            _check(path, header)
            self.played = _clean(path, arms, retry_failed)
        else:
            path.write_text(to_line(header), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def add(self, hunts: Sequence[Hunt]) -> None:
        """Appends all hunts of one query."""
        self._file.write("".join(map(to_line, hunts)))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _has_header(path: Path) -> bool:
    """False where a run has not even written its first line."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _check(path: Path, header: Header) -> None:
    """Raises InvalidArgument unless the file's header is equal, naming each difference."""
    try:
        old = _flat(read_header(path))
    except (ValueError, TypeError) as error:
        raise InvalidArgument(
            f"{path} is not the file of a run: {error}", reason="NOT_A_RUN", hint="Choose another folder with --out."
        ) from error
    new = _flat(header)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    # A model that could not be asked, then or now, is no difference.
    names = [name for name in names if not name.startswith("models.") or (name in old and name in new)]
    if names:
        told = "; ".join(
            f"{name.removeprefix('settings.')} was {_shown(old, name)}, is {_shown(new, name)}" for name in names
        )
        raise InvalidArgument(
            f"the run in {path.parent} was made with other settings: {told}",
            reason="OTHER_SETTINGS",
            hint="Give the same settings to go on with it, or another folder with --out.",
        )


def _flat(header: Header) -> dict[str, Any]:
    """The header as JSON has it, with settings, models and problems one by one."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(to_line(header)).items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


def _shown(flat: Mapping[str, Any], name: str) -> str:
    return json.dumps(flat[name]) if name in flat else "nothing"


def _clean(path: Path, arms: Sequence[str], retry_failed: bool) -> frozenset[str]:
    """Leaves only the lines of queries that are played; returns their ids."""
    try:
        hunts = list(read_hunts(path))
    except (ValueError, TypeError, KeyError) as error:
        raise DataLoss(
            f"{path} has a line that is no hunt: {error}", reason="RUN_DAMAGED", hint="Start again in another folder."
        ) from error
    lines: dict[str, dict[str, Hunt]] = {}
    for hunt in hunts:
        lines.setdefault(hunt.query_id, {})[hunt.arm] = hunt
    played = {
        id
        for id, by_arm in lines.items()
        if by_arm.keys() == set(arms) and not (retry_failed and any(h.stopped == "failed" for h in by_arm.values()))
    }
    kept = "".join([_first_line(path), *(to_line(hunt) for hunt in hunts if hunt.query_id in played)])
    if kept.encode() != path.read_bytes():
        new = path.with_suffix(".new")
        new.write_text(kept, encoding="utf-8")
        new.replace(path)
    return frozenset(played)


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline()
