"""What batches are worth: items/s of each service's model in batches, against the same model one item at a time.

    python -m benchmarks.batching [--only embedder] [--data DIR] [--items N] [--repeats N] [--precision P] [--out FILE]

The models have the sizes of real ones and random weights: how fast they are does not depend on what they have learned.
Both ways run in turn, in one process and with the same threads, so that a change of the machine hits both; the ratio is
the median of the passes' own ratios. Decoding of images is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks import machine
from benchmarks.photos import load_photos
from benchmarks.report import arguments, publish, table
from services.common import decode_worker
from services.common.settings import Settings, load_settings
from services.common.threads import apply_thread_budget, limit_torch

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """Medians of one comparison: items/s one by one and in batches, and how many times faster batches are."""

    service: str
    what: str
    precision: str
    batch: int
    alone: float
    batched: float
    ratio: float


def embedder(options: argparse.Namespace, settings: Settings, work: Path) -> list[Row]:
    """Images and texts through a CLIP of ViT-B/32's size, in the batches that the service makes at most."""
    from services.embedder.encoders import load_encoder
    from tests.tiny import clip

    photos = load_photos(options.data, options.items)
    texts = [photo.captions[0] for photo in photos]
    folder = clip.build(work / "clip-vit-b-32", size=clip.VIT_B_32, texts=texts)
    encoder = load_encoder(
        settings.with_changes(
            embedder_backend="huggingface", embedder_model=str(folder), embedder_precision=options.precision
        )
    )
    files = [photo.path.read_bytes() for photo in photos]
    results = decode_worker.decode_chunk(files, encoder.resize, settings.max_image_pixels)
    pixels = [result.array for result in results if isinstance(result, decode_worker.Pixels)]
    precision = str(getattr(encoder, "precision", ""))
    image, text = settings.embed_image_batch, settings.embed_text_batch
    return [
        Row(
            "embedder",
            "CLIP ViT-B/32, images",
            precision,
            image,
            *compare(encoder.embed_images, pixels, image, options),
        ),
        Row("embedder", "CLIP ViT-B/32, texts", precision, text, *compare(encoder.embed_texts, texts, text, options)),
    ]


# A further service is one function of this shape: it builds its model, and gives a row for each thing that it batches.
def captioner(options: argparse.Namespace, settings: Settings, work: Path) -> list[Row]:
    """See `batching_captioner`."""
    from benchmarks.batching_captioner import captioner_rows

    return captioner_rows(options, settings, work)


def rewriter(options: argparse.Namespace, settings: Settings, work: Path) -> list[Row]:
    """See `batching_rewriter`."""
    from benchmarks.batching_rewriter import rewriter_rows

    return rewriter_rows(options, settings, work)


PARTS: dict[str, Callable[[argparse.Namespace, Settings, Path], list[Row]]] = {
    "embedder": embedder,
    "captioner": captioner,
    "rewriter": rewriter,
}


def compare(
    run: Callable[[Sequence[T]], object], items: Sequence[T], batch: int, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Items/s one by one, in batches, and the ratio: medians over `options.repeats` passes over all items of each."""
    _rate(run, items[:batch], 1)  # does not count: runtimes allocate
    _rate(run, items[:batch], batch)
    passes = [(_rate(run, items, 1), _rate(run, items, batch)) for _ in range(options.repeats)]
    return (
        median(alone for alone, _ in passes),
        median(batched for _, batched in passes),
        median(batched / alone for alone, batched in passes),
    )


def _rate(run: Callable[[Sequence[T]], object], items: Sequence[T], batch: int) -> float:
    begin = time.perf_counter()
    for start in range(0, len(items), batch):
        run(items[start : start + batch])
    return len(items) / (time.perf_counter() - begin)


def main() -> None:
    parser = arguments("Batches against one by one")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="services to measure")
    parser.add_argument("--items", type=int, default=64, help="items in one pass")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each kind")
    parser.add_argument("--precision", choices=["auto", "fp32", "fp16", "bf16"], default="auto", help="of the weights")
    options = parser.parse_args()
    settings = load_settings()
    apply_thread_budget(settings.threads)
    limit_torch(settings.threads)
    host = machine.describe()
    with tempfile.TemporaryDirectory(prefix="warmer-bench-") as work:
        rows = [row for name in options.only for row in PARTS[name](options, settings, Path(work))]
    headers = ["service", "what", "precision", "batch", "one by one, items/s", "in batches, items/s", "times"]
    text = table(headers, [_cells(row) for row in rows])
    note = f"threads {settings.threads}, {options.items} items, medians of {options.repeats} passes"
    result = {"threads": settings.threads, "items": options.items, "rows": [asdict(row) for row in rows]}
    publish("Batching", host, result, f"{text}\n\n{note}", options.out)


def _cells(row: Row) -> list[object]:
    rates = [f"{row.alone:.1f}", f"{row.batched:.1f}", f"{row.ratio:.2f}"]
    return [row.service, row.what, row.precision, row.batch, *rates]


if __name__ == "__main__":
    main()
