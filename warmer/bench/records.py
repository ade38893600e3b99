"""What a run writes: one JSON line for each hunt, and one header line before them. `metrics` and `report` read it.

The first line of a file is a :class:`Header`; a run that goes on compares it with its own settings and refuses when
they differ. Every further line is a :class:`Hunt`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Header:
    """What a run was: everything that decides its result. `settings` are the runner's; `models` by service."""

    version: int
    dataset: str
    collection: str
    images: int
    settings: Mapping[str, Any]
    models: Mapping[str, str]
    problems: Mapping[str, int]  # number of the dataset's problems by kind


@dataclass(frozen=True)
class Round:
    """One round of a hunt, as the person saw it.

    `rank` is the best rank of a target in this round, ranked as if nothing were excluded (None: no target is in the
    collection); `position` is its place among the hits as delivered, None where it is not among them. `hits` are those
    delivered. `relevant`, `irrelevant`, `comment` are what the person said before this round (nothing in round 0).
    """

    index: int
    rank: int | None
    position: int | None
    hits: tuple[str, ...]
    displayed: tuple[str, ...]
    ranks: Mapping[str, int]  # of every target, as `rank`
    query: str = ""
    relevant: tuple[str, ...] = ()
    irrelevant: tuple[str, ...] = ()
    comment: str = ""
    rewrite: str = ""
    fell_back: bool = False
    degraded: tuple[str, ...] = ()
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)  # seconds by stage, `round` is the whole
    tokens: int = 0


@dataclass(frozen=True)
class Hunt:
    """One hunt. `arm` is `main`, `next-page` or `comment-only`; hunts of one `query_id` are paired over the arms.

    `found` is the index of the round that displayed a target, None where none did. `stopped` says why the hunt ended:
    `found`, `rounds`, `rank-under-10`, `rank-worse` (both of the reference protocol), `no-choice`, `failed`. A failed
    hunt is never counted as a hit; `failure` says why.
    """

    query_id: str
    arm: str
    strategy: str
    user: str
    text: str
    targets: tuple[str, ...]
    rounds: tuple[Round, ...]
    found: int | None
    stopped: str
    failure: str = ""
    seconds: float = 0.0


def to_line(record: Header | Hunt) -> str:
    """One line of JSON, with its newline."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":")) + "\n"


def read_header(path: Path) -> Header:
    """The first line. Raises ValueError when it is none."""
    with path.open(encoding="utf-8") as file:
        data = json.loads(file.readline())
    if data.get("version") != VERSION:
        raise ValueError(f"{path} is no run of version {VERSION}")
    return Header(**data)


def read_hunts(path: Path) -> Iterator[Hunt]:
    """All hunts, in the order in which they ended. A last line that was cut off by a crash is left out."""
    with path.open(encoding="utf-8") as file:
        next(file, None)
        for line in file:
            if line.endswith("\n"):
                yield _hunt(json.loads(line))


def _hunt(data: dict[str, Any]) -> Hunt:
    rounds = tuple(Round(**_tuples(item)) for item in data.pop("rounds"))
    return Hunt(rounds=rounds, **_tuples(data))


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the records have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
