"""The rewriter's rows of `benchmarks.batching`: SmolLM2 in batches, with and without the beginning that is kept.

The model is the real one of the compact profile, asked as it is there when `rewriter_mode` is `model`: a caption or a
comment of real photos to each query. Answers end where the model ends them, so a batch is as long as its longest. All
prompts begin with the same five examples, whose keys and values the service keeps; the second row reads them anew for
every rewrite, and the difference between the rows is what keeping them is worth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.batching import Row
from benchmarks.photos import load_photos
from services.common.settings import Settings
from services.rewriter.merging import Merger
from services.rewriter.models import LanguageModel, Request
from services.rewriter.models.compact import load_compact
from services.rewriter.prompts import Prompt, load_prompt

PART = 4  # a rewrite costs so much that only this part of the items is asked for


def rewriter_rows(options: argparse.Namespace, settings: Settings, _work: Path, batch: int = 8) -> list[Row]:
    """Two rows: the beginning of the prompts kept, and read anew. All four ways run in turn."""
    prompt = load_prompt("compact.v1")
    requests = _requests(options.data, prompt, max(batch, options.items // PART))
    kept, fresh = load_compact(settings), load_compact(settings)
    Merger(kept, prompt, settings.rewriter_max_new_tokens, settings.rewriter_max_words).warm()
    ways = [(model, size) for model in (kept, fresh) for size in (1, batch)]
    for model, size in ways:
        model.generate(requests[:size], max_new_tokens=2)  # does not count: runtimes allocate
    passes = [[_rate(model, requests, size, prompt) for model, size in ways] for _ in range(options.repeats)]
    names = ("SmolLM2-135M, rewrites", "the same, the prompts' beginning read each time")
    rows = []
    for index, what in enumerate(names):
        pairs = [tuple(rates[2 * index : 2 * index + 2]) for rates in passes]
        alone, batched = (median(column) for column in zip(*pairs, strict=True))
        ratio = median(b / a for a, b in pairs)
        rows.append(Row("rewriter", what, kept.precision, batch, alone, batched, ratio))
    return rows


def _requests(data: Path, prompt: Prompt, count: int) -> list[Request]:
    """Queries of real photos; to every second one a comment, to the others a caption of another photo."""
    photos = load_photos(data, 2 * count)
    requests = []
    for index in range(count):
        target, other = photos[index].captions, photos[count + index].captions
        comment = target[1] if index % 2 else ""
        requests.append(Request(prompt.messages(target[0], () if comment else (other[0],), (), comment)))
    return requests


def _rate(model: LanguageModel, requests: Sequence[Request], batch: int, prompt: Prompt) -> float:
    """Rewrites/s."""
    begin = time.perf_counter()
    for start in range(0, len(requests), batch):
        answers = model.generate(requests[start : start + batch], max_new_tokens=prompt.max_new_tokens)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
    return len(requests) / (time.perf_counter() - begin)
