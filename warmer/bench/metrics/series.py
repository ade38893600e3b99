"""Hunts of a run, grouped into what is compared: one series for each arm, strategy and user.

A series is sorted by query id, so that figures do not depend on the order in which concurrent hunts ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmer.bench.records import Header, Hunt, read_header, read_hunts
from warmer.errors import InvalidArgument

MAIN = "main"
CONTROLS = ("next-page", "comment-only")
ARMS = (MAIN, *CONTROLS)
DEFAULT_DEPTHS = (1, 5, 10)
DEFAULT_SHOWN = 10
HUNTS = "hunts.jsonl"  # what the runner calls its file, whatever the run


@dataclass(frozen=True)
class Series:
    """Hunts of one arm, strategy and user, sorted by query id; each query id is there once.

    Attributes:
        rounds: number of rounds in the figures, round 0 included.
        depths: the K of the metrics at a depth, ascending.
        unranked: the rank that stands for "no rank": of a failed hunt, and of targets that are not in the collection.
    """

    arm: str
    strategy: str
    user: str
    hunts: tuple[Hunt, ...]
    rounds: int
    depths: tuple[int, ...]
    unranked: int

    @cached_property
    def query_ids(self) -> tuple[str, ...]:
        """Query ids, ascending."""
        return tuple(hunt.query_id for hunt in self.hunts)

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """Which hunts are resampled together, as numbers from 0: (N,).

        Hunts of one image are not independent, and nor are those of one set of images (the frames of a video). Sets
        that overlap in part count as different.
        """
        keys = [tuple(sorted(set(hunt.targets))) or (hunt.query_id,) for hunt in self.hunts]
        numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
        return np.array([numbers[key] for key in keys], dtype=np.int64)

    @property
    def number_of_clusters(self) -> int:
        """How many there are: as a rule, the number of images that are looked for."""
        return int(self.clusters.max()) + 1 if len(self.clusters) else 0

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which hunts failed: (N,)."""
        return np.array([is_failed(hunt) for hunt in self.hunts], dtype=bool)

    @property
    def several_targets(self) -> bool:
        """Whether any hunt has more than one relevant image."""
        return any(len(set(hunt.targets)) > 1 for hunt in self.hunts)

    def only(self, query_ids: Collection[str]) -> Series:
        """The same series with these hunts alone."""
        wanted = frozenset(query_ids)
        return replace(self, hunts=tuple(hunt for hunt in self.hunts if hunt.query_id in wanted))


@dataclass(frozen=True)
class Run:
    """A run as read. `duplicates` are further hunts of the same query and series, which are left out of all figures."""

    path: Path
    name: str
    header: Header
    series: tuple[Series, ...]
    duplicates: int

    @property
    def mains(self) -> tuple[Series, ...]:
        """The series that the run is about."""
        return tuple(series for series in self.series if series.arm == MAIN)

    def controls(self, main: Series) -> tuple[Series, ...]:
        """What stands beside a main series: of the same user, and of the same strategy where controls have one each."""
        found = (self._control(arm, main) for arm in CONTROLS)
        return tuple(series for series in found if series is not None)

    def label(self, series: Series) -> str:
        """The name of a series within its run: the arm, and what else tells it from others of its arm."""
        same_arm = [other for other in self.series if other.arm == series.arm]
        names = ("strategy", "user")
        telling = [getattr(series, name) for name in names if len({getattr(other, name) for other in same_arm}) > 1]
        return f"{series.arm} ({', '.join(telling)})" if telling else series.arm

    def _control(self, arm: str, main: Series) -> Series | None:
        same = [series for series in self.series if series.arm == arm and series.user == main.user]
        exact = [series for series in same if series.strategy == main.strategy]
        if exact:
            return exact[0]
        return same[0] if len(same) == 1 else None  # with several of other strategies, none is the right one


def is_failed(hunt: Hunt) -> bool:
    """Whether the hunt failed; such a hunt is never a hit, whatever its earlier rounds found."""
    return hunt.stopped == "failed" or bool(hunt.failure)


def load_run(path: Path, name: str = "") -> Run:
    """Reads a run. `name` is what figures call it (default: its folder, or the file itself where that tells more).

    Raises InvalidArgument (``NOT_A_RUN``) when the file cannot be read as one.
    """
    try:
        header = read_header(path)
        hunts = list(read_hunts(path))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # The file is data: whatever is wrong with it surfaces as one of these while the records are built.
        raise InvalidArgument(
            f"{path} cannot be read as a run: {error}",
            reason="NOT_A_RUN",
            field="run",
            hint="Give a file that `warmer bench run` wrote.",
        ) from error
    groups, duplicates = _grouped(hunts)
    return Run(path, name or _name_of(path), header, _series(header, groups), duplicates)


def load_runs(paths: Sequence[Path]) -> tuple[Run, ...]:
    """Reads several runs, with names that tell them apart."""
    names: list[str] = []
    for path in paths:
        name = _name_of(path)
        longer = f"{path.resolve().parent.parent.name}/{name}"
        names.append(
            next(
                one for one in (name, longer, *(f"{name} ({n})" for n in range(2, len(paths) + 1))) if one not in names
            )
        )
    return tuple(load_run(path, name) for path, name in zip(paths, names, strict=True))


def _name_of(path: Path) -> str:
    return path.resolve().parent.name if path.name == HUNTS else path.stem


def _grouped(hunts: Iterable[Hunt]) -> tuple[dict[tuple[str, str, str], dict[str, Hunt]], int]:
    groups: dict[tuple[str, str, str], dict[str, Hunt]] = {}
    duplicates = 0
    for hunt in hunts:
        group = groups.setdefault((hunt.arm, hunt.strategy, hunt.user), {})
        duplicates += hunt.query_id in group
        group.setdefault(hunt.query_id, hunt)
    return groups, duplicates


def _series(header: Header, groups: Mapping[tuple[str, str, str], Mapping[str, Hunt]]) -> tuple[Series, ...]:
    hunts = [hunt for group in groups.values() for hunt in group.values()]
    rounds = 1 + max([_number(header.settings, "rounds", 0), *(item.index for hunt in hunts for item in hunt.rounds)])
    ranks = [item.rank for hunt in hunts for item in hunt.rounds if item.rank is not None]
    unranked = 1 + max([header.images, *ranks])
    depths = tuple(sorted({*DEFAULT_DEPTHS, _number(header.settings, "shown", DEFAULT_SHOWN)}))
    keys = sorted(groups, key=lambda key: (ARMS.index(key[0]) if key[0] in ARMS else len(ARMS), key))
    return tuple(
        Series(*key, tuple(groups[key][name] for name in sorted(groups[key])), rounds, depths, unranked) for key in keys
    )


def _number(settings: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = settings.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise
