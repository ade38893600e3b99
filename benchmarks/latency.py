"""First-hit and round latency by stage: alone, and while another session keeps the language model writing.

    python -m benchmarks.latency --data DIR [--iterations N] [--model-iterations N] [--out FILE]

Four separate processes, measured at the client. Two stacks share one data folder: the rewriter in mode `join` (the
compact profile's default), then in mode `model`. Beside each search, the same query is embedded and looked up in this
process, with the same encoder and numpy, which is the least that any service could take.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.hunting import STAGES, Company, Hunter, Sample
from benchmarks.photos import Photo, load_photos
from benchmarks.report import arguments, milliseconds, publish, quantiles, table
from benchmarks.stack import index, running
from services.common.settings import load_settings
from services.embedder.encoders.compact import CompactEncoder
from warmer import Client

_COLLECTION = "photos"
_TOP_K = 10
_WARM_UP = 3
_COMPANY_PHOTOS = 20
_BASELINE = "in this process, no service"

Samples = dict[str, list[Sample]]


class Baseline:
    """The raw work of a search: the encoder and a product with as many vectors as the collection has.

    The vectors are random: time does not depend on what they hold.
    """

    def __init__(self, encoder: CompactEncoder, images: int) -> None:
        vectors = np.random.default_rng(0).normal(size=(images, encoder.dimensions)).astype(np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # (N, D)
        self._encoder = encoder

    def search(self, text: str) -> Sample:
        """Embeds the text and finds the best images."""
        begin = time.perf_counter()
        scores = self._vectors @ self._encoder.embed_texts([text]).vectors[0]  # (N,)
        top = np.argpartition(-scores, _TOP_K)[:_TOP_K]
        top[np.argsort(-scores[top])].tolist()
        total = time.perf_counter() - begin
        return Sample(total, total, {})


class Measuring:
    """Takes photos off one supply, so that no stack sees a text or an image of another."""

    def __init__(self, photos: Sequence[Photo], baseline: Baseline) -> None:
        self._company = photos[:_COMPANY_PHOTOS]
        self._supply = iter(photos[_COMPANY_PHOTOS:])
        self._baseline = baseline
        self._captioned: set[str] = set()

    def run(self, client: Client, iterations: int, *, company: bool) -> tuple[Samples, dict[str, float]]:
        """Samples by kind of round, and what the other session did meanwhile."""
        hunter = Hunter(client, _COLLECTION, self._captioned)
        for _ in range(_WARM_UP):
            list(hunter.iteration(next(self._supply)))
        samples: Samples = defaultdict(list)
        other = Company(client, _COLLECTION, self._captioned, self._company)
        with ExitStack() as stack:
            if company:
                stack.enter_context(other)
            for _ in range(iterations):
                photo = next(self._supply)
                samples[_BASELINE].append(self._baseline.search(photo.captions[1]))
                for kind, sample in hunter.iteration(photo):
                    samples[kind].append(sample)
        return samples, _activity(other) if company else {}


def main() -> None:
    parser = arguments("Latency of searches and rounds")
    parser.add_argument("--images", type=int, default=1000, help="photos to index")
    parser.add_argument("--iterations", type=int, default=100, help="rounds of each kind, rewriter in mode join")
    parser.add_argument("--model-iterations", type=int, default=40, help="the same, in mode model")
    options = parser.parse_args()
    photos = load_photos(options.data, options.images)
    needed = _COMPANY_PHOTOS + 3 * _WARM_UP + options.iterations + 2 * options.model_iterations
    if needed > len(photos):
        parser.error(f"so many iterations need {needed} photos, there are {len(photos)}")
    host = machine.describe()
    measuring = Measuring(photos, Baseline(CompactEncoder.load(load_settings()), len(photos)))
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="warmer-bench-") as work:
        for mode, settings in _settings(options.iterations, options.model_iterations).items():
            with running(Path(work), rewriter_mode=mode) as stack:
                if not results:
                    index(stack.client, _COLLECTION, photos)
                for name, iterations, company in settings:
                    results[name] = _summary(*measuring.run(stack.client, iterations, company=company))
                    print(f"  {name}: done", flush=True)
    text = "\n\n".join(_section(name, result) for name, result in results.items())
    publish("Latency", host, {"images": len(photos), "settings": results}, text, options.out)


def _settings(iterations: int, model_iterations: int) -> dict[str, list[tuple[str, int, bool]]]:
    """By rewriter mode: name, iterations, and whether another session generates."""
    return {
        "join": [("rewriter joins, alone", iterations, False)],
        "model": [
            ("rewriter asks its model, alone", model_iterations, False),
            ("rewriter asks its model, while another session generates", model_iterations, True),
        ],
    }


def _summary(samples: Samples, activity: dict[str, float]) -> dict[str, Any]:
    base = quantiles([sample.total for sample in samples[_BASELINE]])
    kinds = {}
    for kind, taken in samples.items():
        total = quantiles([sample.total for sample in taken])
        kinds[kind] = {
            "first_hit": quantiles([sample.first_hit for sample in taken]),
            "total": total,
            "times_baseline": total["p50"] / base["p50"],
            "stages": {
                stage: quantiles([sample.stages[stage] for sample in taken if stage in sample.stages])
                for stage in STAGES
            },
            "rest": quantiles([sample.rest for sample in taken]),
            "fell_back": sum(sample.fell_back for sample in taken),
            "degraded": sum(sample.degraded for sample in taken),
        }
    return {"kinds": kinds, "other_session": activity}


def _activity(other: Company) -> dict[str, float]:
    return {
        "rounds": other.rounds,
        "tokens": other.tokens,
        "share_of_time_in_rewriter": other.writing_s / other.running_s,
    }


def _section(name: str, result: dict[str, Any]) -> str:
    rows = []
    for kind, taken in result["kinds"].items():
        stages = [milliseconds(taken["stages"][stage]) for stage in STAGES]
        rest = "-" if kind == _BASELINE else milliseconds(taken["rest"])
        waits = [milliseconds(taken["first_hit"]), milliseconds(taken["total"])]
        rows.append([kind, taken["total"]["n"], *waits, *stages, rest, f"{taken['times_baseline']:.1f}"])
    headers = ["p50 / p95, ms", "n", "first hit", "whole", *STAGES, "rest", "x baseline"]
    lines = [f"**{name}**", "", table(headers, rows)]
    fell_back = sum(taken["fell_back"] for taken in result["kinds"].values())
    degraded = sum(taken["degraded"] for taken in result["kinds"].values())
    lines += ["", f"Rewrites that the guard replaced: {fell_back}; rounds with a stage skipped: {degraded}."]
    if activity := result["other_session"]:
        share = 100 * activity["share_of_time_in_rewriter"]
        lines.append(
            f"The other session made {activity['rounds']:.0f} rounds of {activity['tokens']:.0f} tokens together, "
            f"{share:.0f} % of its time in the rewriter or its queue."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
