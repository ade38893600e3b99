"""Images/s of AddImages through the SDK and a live embedder, as a share of what the encoder alone does.

    python -m benchmarks.indexing --data DIR [--images N] [--large N] [--repeats N] [--out FILE]

The encoder alone is given arrays that are decoded already, in the same batches and with the same threads as in the
service. Both are measured in turn, in one run, so that a change of the machine hits both. The service decodes, hashes,
embeds, syncs files and commits: a result counts once it is durable and findable.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks import machine
from benchmarks.photos import Photo, load_photos, make_large_photos
from benchmarks.report import arguments, publish, table
from benchmarks.stack import Running, index, running
from services.common import decode_worker
from services.common.decoding import Resize
from services.common.settings import Settings, load_settings
from services.embedder.encoders.compact import CompactEncoder


@dataclass(frozen=True)
class Pair:
    """One pass of each: rates in images/s, processor time in milliseconds per image.

    `embedder_cpu` is the service's own process, `decoders_cpu` its decoding processes, `client_cpu` the SDK's.
    """

    alone: float
    service: float
    alone_cpu: float
    embedder_cpu: float
    decoders_cpu: float
    client_cpu: float

    @property
    def share(self) -> float:
        """What the service reaches of the encoder alone."""
        return self.service / self.alone

    @property
    def cpu_share(self) -> float:
        """The encoder's part of all processor time that indexing takes: where cores are the limit, the share that a
        quiet machine can reach. Hardly disturbed by what else runs."""
        return self.alone_cpu / (self.embedder_cpu + self.decoders_cpu + self.client_cpu)


def main() -> None:
    parser = arguments("Indexing rate as a share of the encoder alone")
    parser.add_argument("--images", type=int, default=1000, help="photos of --data in one pass")
    parser.add_argument("--large", type=int, default=64, help="12-megapixel photos in one pass; 0 leaves them out")
    parser.add_argument("--repeats", type=int, default=5, help="passes of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warmer-bench-") as work:
        folder = Path(work)
        sets = {"224 px": load_photos(options.data, options.images)}
        if options.large:
            sets["12 MP"] = make_large_photos(folder, options.large)
        host = machine.describe()
        settings = load_settings()
        encoder = CompactEncoder.load(settings)
        with running(folder / "data") as stack:
            results = {
                name: summary(_pairs(stack, settings, encoder, photos, options.repeats), photos)
                for name, photos in sets.items()
            }
    cpu = ("of CPU time", "CPU ms/image: alone", "embedder", "decoders", "client")
    headers = ["photos", "MB each", "encoder alone, images/s", "AddImages, images/s", "share", *cpu]
    text = table(headers, [_row(name, result) for name, result in results.items()])
    note = f"threads {settings.threads}, batch {settings.embed_image_batch}, medians of {options.repeats} passes"
    result = {"threads": settings.threads, "batch": settings.embed_image_batch, "sets": results}
    publish("Indexing", host, result, f"{text}\n\n{note}", options.out)


def _pairs(
    stack: Running, settings: Settings, encoder: CompactEncoder, photos: Sequence[Photo], repeats: int
) -> list[Pair]:
    pixels = _decoded(photos, encoder.resize, settings.max_image_pixels)
    # One pass of each that does not count: files come into the page cache, and runtimes allocate.
    _alone(encoder, pixels[:32], settings.embed_image_batch)
    _service(stack, "warm-up", photos)
    pairs = []
    for number in range(repeats):
        alone, alone_cpu = _alone(encoder, pixels, settings.embed_image_batch)
        service, used = _service(stack, f"pass-{number}", photos)
        pairs.append(Pair(alone, service, alone_cpu, used["embedder"], used["embedder.helpers"], used["client"]))
        print(f"  pass {number}: alone {alone:.1f}, service {service:.1f} images/s", flush=True)
    return pairs


def _decoded(photos: Sequence[Photo], resize: Resize, max_pixels: int) -> list[np.ndarray]:
    """The arrays that the service's own decoders make, (H, W, 3) uint8 each."""
    files = [photo.path.read_bytes() for photo in photos]
    results = decode_worker.decode_chunk(files, resize, max_pixels)
    return [result.array for result in results if isinstance(result, decode_worker.Pixels)]


def _alone(encoder: CompactEncoder, pixels: Sequence[np.ndarray], batch: int) -> tuple[float, float]:
    """Images/s and CPU milliseconds per image of the encoder in this process."""
    this = psutil.Process()
    cpu, begin = machine.cpu_seconds(this), time.perf_counter()
    for start in range(0, len(pixels), batch):
        encoder.embed_images(pixels[start : start + batch])
    seconds = time.perf_counter() - begin
    return len(pixels) / seconds, 1e3 * (machine.cpu_seconds(this) - cpu) / len(pixels)


def _service(stack: Running, collection: str, photos: Sequence[Photo]) -> tuple[float, dict[str, float]]:
    """Images/s, and CPU milliseconds per image of each process. A new collection each time, or nothing would be new."""
    this = psutil.Process()
    before = stack.cpu() | {"client": machine.cpu_seconds(this)}
    seconds = index(stack.client, collection, photos)
    after = stack.cpu() | {"client": machine.cpu_seconds(this)}
    stack.client.collections.delete(collection)
    used = {name: 1e3 * (after[name] - before[name]) / len(photos) for name in before}
    return len(photos) / seconds, used


def summary(pairs: Sequence[Pair], photos: Sequence[Photo]) -> dict[str, Any]:
    """Medians over the passes; `share` is the median of the passes' own shares."""
    names = list(asdict(pairs[0]))
    return {
        "photos": len(photos),
        "megabytes_each": sum(photo.path.stat().st_size for photo in photos) / len(photos) / 1e6,
        "share": median(pair.share for pair in pairs),
        "shares": [round(pair.share, 3) for pair in pairs],
        "cpu_share": median(pair.cpu_share for pair in pairs),
        **{name: median(getattr(pair, name) for pair in pairs) for name in names},
    }


def _row(name: str, result: dict[str, Any]) -> list[object]:
    cpu = [f"{result[key]:.1f}" for key in ("alone_cpu", "embedder_cpu", "decoders_cpu", "client_cpu")]
    rates = [f"{result['alone']:.1f}", f"{result['service']:.1f}"]
    return [
        name,
        f"{result['megabytes_each']:.2f}",
        *rates,
        f"{100 * result['share']:.0f} %",
        f"{100 * result['cpu_share']:.0f} %",
        *cpu,
    ]


if __name__ == "__main__":
    main()
