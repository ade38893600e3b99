"""Resident memory of each service: idle after warming, after 1,000 images, and after rounds that use all models.

    python -m benchmarks.memory --data DIR [--images N] [--rounds N] [--out FILE]

Both rewriter modes are started. PSS counts a page that several processes share in parts, so that PSS adds up; USS is
what the process alone holds. Helpers are the decoders and the embedded Redis.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import machine
from benchmarks.photos import Photo, load_photos
from benchmarks.report import arguments, publish, table
from benchmarks.stack import Running, index, running
from warmer import Client
from warmer.cli.stack import SERVICES

_SETTLE_S = 3.0
_MODES = ("join", "model")
_COLLECTION = "photos"


def main() -> None:
    parser = arguments("Resident memory of each service")
    parser.add_argument("--images", type=int, default=1000, help="photos to index")
    parser.add_argument("--rounds", type=int, default=20, help="rounds to refine, under the strategy rewrite")
    options = parser.parse_args()
    photos = load_photos(options.data, options.images)
    host = machine.describe()
    results = {mode: measure(mode, photos, options.rounds) for mode in _MODES}
    headers = ["service", "idle PSS", f"after {len(photos)} images", f"after {options.rounds} rounds", "USS", "RSS"]
    texts = [
        f"Rewriter mode `{mode}`, MB (10^6 bytes); USS and RSS of the service's own process at the end:\n\n"
        + table([*headers, "helpers' PSS"], _rows(states))
        for mode, states in results.items()
    ]
    publish("Memory", host, {"images": len(photos), "modes": results}, "\n\n".join(texts), options.out)


def measure(mode: str, photos: Sequence[Photo], rounds: int) -> dict[str, dict[str, Any]]:
    """Bytes by state, service and kind."""
    with tempfile.TemporaryDirectory(prefix="warmer-bench-") as work, running(Path(work), rewriter_mode=mode) as stack:
        states = {"idle": _look(stack)}
        index(stack.client, _COLLECTION, photos)
        states["indexed"] = _look(stack)
        for photo in photos[:rounds]:
            _hunt(stack.client, photo)
        states["refined"] = _look(stack)
    return states


def _hunt(client: Client, photo: Photo) -> None:
    session = client.sessions.create(_COLLECTION, strategy="rewrite")
    first = session.search(photo.captions[0])
    session.refine(relevant=[first.hits[0].image_id], comment=photo.captions[-1])


def _look(stack: Running) -> dict[str, dict[str, int]]:
    time.sleep(_SETTLE_S)
    return {name: _memory(process) for name, process in stack.processes.items()}


def _memory(process: psutil.Process) -> dict[str, int]:
    own = process.memory_full_info()
    helpers = sum(child.memory_full_info().pss for child in process.children(recursive=True))
    return {"pss": own.pss, "uss": own.uss, "rss": own.rss, "helpers_pss": helpers}


def _rows(states: dict[str, dict[str, Any]]) -> list[list[object]]:
    rows: list[list[object]] = []
    total = [0.0] * 6
    for name in SERVICES:
        end = states["refined"][name]
        values = [states[state][name]["pss"] / 1e6 for state in ("idle", "indexed", "refined")]
        values += [end["uss"] / 1e6, end["rss"] / 1e6, end["helpers_pss"] / 1e6]
        total = [a + b for a, b in zip(total, values, strict=True)]
        rows.append([name, *(f"{value:.0f}" for value in values)])
    return [*rows, ["sum", *(f"{value:.0f}" for value in total[:3]), f"{total[3]:.0f}", "-", f"{total[5]:.0f}"]]


if __name__ == "__main__":
    main()
