"""Images/s of indexing with BLIP ViT-B, through the SDK and a live embedder, against the reference's loop.

    python -m benchmarks.blip --data DIR [--images N] [--repeats N] [--precision P] [--weights FILE] [--out FILE]

The reference embeds one image after the other in float32: PIL opens and resizes it, it becomes a tensor, and the model
runs under `no_grad`. The service decodes in processes beside the model, batches, computes in the device's precision,
stores the file and commits. Both take the same weights, device, threads and photos, in turn, in one run. Speed does not
depend on what weights hold, so they are random numbers unless `--weights` names a checkpoint. The cosine to the
reference is that of the vectors that the collection holds; beside it is the one between different photos, for if random
weights made all photos alike, agreement would say nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from transformers import BlipConfig, BlipForImageTextRetrieval
from transformers.utils import logging as transformers_logging

from benchmarks import machine
from benchmarks.photos import Photo, load_photos
from benchmarks.report import arguments, publish, table
from benchmarks.stack import Running, index, running
from services.common.checkpoints import device_of
from services.common.settings import Settings, load_settings
from services.common.threads import limit_torch
from services.embedder.encoders.blip import BlipEncoder
from warmer.types import Search, Term

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_AIM = 3.5


class Reference:
    """The reference's way: one image at a time, float32, transformers' plain BLIP."""

    def __init__(self, weights: Path, settings: Settings) -> None:
        plain = settings.model_copy(
            update={"blip_weights": str(weights), "embedder_precision": "fp32", "attention": "eager"}
        )
        encoder = BlipEncoder.load(plain)
        self._model = encoder._model  # the same loader for both, or the weights might differ
        self._size = encoder.resize.size
        self._device = device_of(settings)

    def embed(self, path: Path) -> np.ndarray:
        """The unit vector (D,) of an image file."""
        image = Image.open(path).convert("RGB").resize((self._size, self._size), Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, dtype=np.float32) / 255 - _MEAN) / _STD  # (S, S, 3)
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(self._device)
        with torch.no_grad():
            states = self._model.vision_model(pixel_values=tensor).last_hidden_state  # (1, 1 + patches, width)
            vector = torch.nn.functional.normalize(self._model.vision_proj(states[:, 0]), dim=-1)[0]
        return np.asarray(vector.cpu())


@dataclass(frozen=True)
class Pass:
    """One pass of each: images/s, and CPU milliseconds per image of everything that took part."""

    reference: float
    service: float
    reference_cpu: float
    service_cpu: float
    cosines: list[float]
    between: float  # median cosine of different photos


def main() -> None:
    parser = arguments("Indexing with BLIP against the reference's one-by-one loop")
    parser.add_argument("--images", type=int, default=128, help="photos of --data in one pass")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "fp16", "bf16"], help="of the service")
    parser.add_argument("--weights", type=Path, help="a BLIP checkpoint; random weights of a ViT-B's size without")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warmer-bench-") as work:
        folder = Path(work)
        photos = load_photos(options.data, options.images)
        weights = options.weights or random_weights(folder / "blip-vit-b")
        settings = load_settings()
        limit_torch(settings.threads)
        host = machine.describe()
        reference = Reference(weights, settings)
        chosen = {"embedder_backend": "blip", "blip_weights": weights, "embedder_precision": options.precision}
        with running(folder / "data", ["embedder"], **chosen) as stack:
            model = stack.client.model()
            passes = _passes(stack, reference, photos, options.repeats)
    result = summary(passes, photos) | {
        "weights": str(options.weights or "random, ViT-B, 224 px"),
        "precision": model.precision,
        "device": model.device,
        "threads": settings.threads,
        "batch": settings.embed_image_batch,
    }
    publish("Indexing with BLIP", host, result, _text(result), options.out)


def random_weights(folder: Path) -> Path:
    """A BLIP of the paper's size (ViT-B at 224 px, 256 dimensions) with random weights, the same each time."""
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    # transformers draws the image half's weights so near to zero that all images would look alike.
    vision = {"image_size": 224, "layer_norm_eps": 1e-6, "initializer_range": 0.02}
    config = BlipConfig(vision_config=vision, text_config={"encoder_hidden_size": 768}, image_text_hidden_size=256)
    BlipForImageTextRetrieval(config).save_pretrained(folder)
    return folder


def _passes(stack: Running, reference: Reference, photos: Sequence[Photo], repeats: int) -> list[Pass]:
    # What runtimes do once does not count, nor do files that are not in the page cache yet.
    index(stack.client, "warm-up", photos[:16])
    for photo in photos[:2]:
        reference.embed(photo.path)
    passes = []
    for number in range(repeats):
        made = _pass(stack, reference, photos, f"pass-{number}")
        passes.append(made)
        print(f"  pass {number}: reference {made.reference:.2f}, service {made.service:.2f} images/s", flush=True)
    return passes


def _pass(stack: Running, reference: Reference, photos: Sequence[Photo], collection: str) -> Pass:
    """One pass of each over all photos, the reference first."""
    this = psutil.Process()
    cpu, begin = machine.cpu_seconds(this), time.perf_counter()
    vectors = [reference.embed(photo.path) for photo in photos]
    seconds, used = time.perf_counter() - begin, machine.cpu_seconds(this) - cpu
    before = sum(stack.cpu().values()) + machine.cpu_seconds(this)
    service_s = index(stack.client, collection, photos)
    service_used = sum(stack.cpu().values()) + machine.cpu_seconds(this) - before
    cosines = [_cosine(stack, collection, photo, vector) for photo, vector in zip(photos, vectors, strict=True)]
    stack.client.collections.delete(collection)
    count = len(photos)
    products = np.stack(vectors) @ np.stack(vectors).T
    between = float(np.median(products[~np.eye(count, dtype=bool)]))
    return Pass(count / seconds, count / service_s, 1e3 * used / count, 1e3 * service_used / count, cosines, between)


def _cosine(stack: Running, collection: str, photo: Photo, vector: np.ndarray) -> float:
    """The cosine of the stored vector of a photo to another vector."""
    search = Search(collection, (Term(vector=vector),))
    return stack.client.rank(search, [photo.id]).ranks[0].similarity


def summary(passes: Sequence[Pass], photos: Sequence[Photo]) -> dict[str, Any]:
    """Medians over the passes; `ratio` is the median of the passes' own ratios, `cpu_ratio` that of CPU time."""
    cosines = [cosine for made in passes for cosine in made.cosines]
    return {
        "photos": len(photos),
        "passes": len(passes),
        "reference_images_per_s": median(made.reference for made in passes),
        "service_images_per_s": median(made.service for made in passes),
        "ratio": median(made.service / made.reference for made in passes),
        "ratios": [round(made.service / made.reference, 2) for made in passes],
        "aim": _AIM,
        "reference_cpu_ms": median(made.reference_cpu for made in passes),
        "service_cpu_ms": median(made.service_cpu for made in passes),
        "cpu_ratio": median(made.reference_cpu / made.service_cpu for made in passes),
        "cosine_min": min(cosines),
        "cosine_median": median(cosines),
        "cosine_between_photos": passes[0].between,
    }


def _text(result: dict[str, Any]) -> str:
    rows = [
        ["reference, one by one, fp32", f"{result['reference_images_per_s']:.2f}", f"{result['reference_cpu_ms']:.0f}"],
        [f"service, {result['precision']}", f"{result['service_images_per_s']:.2f}", f"{result['service_cpu_ms']:.0f}"],
        ["ratio", f"{result['ratio']:.2f}", f"{result['cpu_ratio']:.2f}"],
    ]
    note = (
        f"Weights: {result['weights']}; {result['device']}, threads {result['threads']}, batch {result['batch']}; "
        f"{result['photos']} photos, medians of {result['passes']} passes. Cosine to the reference: least "
        f"{result['cosine_min']:.5f}, median {result['cosine_median']:.5f} (between different photos: median "
        f"{result['cosine_between_photos']:.2f}). The aim is a ratio of {_AIM}."
    )
    return f"{table(['way', 'images/s', 'CPU ms/image'], rows)}\n\n{note}"


if __name__ == "__main__":
    main()
