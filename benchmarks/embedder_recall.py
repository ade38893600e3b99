"""Text-to-image recall of the embedder, through the running services: every human caption looks for its photo.

    python -m benchmarks.embedder_recall --data DIR [--kept-back DIR] [--out FILE]

Each photo folder becomes a collection, and RankImages says where the photo of each caption ranks among all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.photos import Photo, load_photos
from benchmarks.report import arguments, publish, table
from benchmarks.stack import Running, index, running
from warmer import Client
from warmer.types import Search, Term

_DEPTHS = (1, 5, 10)
_CALLERS = 4
_RESAMPLES = 1000


def main() -> None:
    parser = arguments("Text-to-image recall of the embedder")
    parser.add_argument("--kept-back", type=Path, help="a second folder in the same layout, reported beside the first")
    parser.add_argument("--photos", type=int, help="only the first so many photos of each folder")
    options = parser.parse_args()
    host = machine.describe()
    folders = {"data": options.data} | ({"kept back": options.kept_back} if options.kept_back else {})
    sets = {name: load_photos(folder, options.photos) for name, folder in folders.items()}
    with tempfile.TemporaryDirectory(prefix="warmer-bench-") as work, running(Path(work)) as stack:
        model = stack.client.model().id
        results = {name: measure(stack, f"set-{number}", photos) for number, (name, photos) in enumerate(sets.items())}
    rows = [_row(name, result) for name, result in results.items()]
    text = table(["photos", "number", "captions", *(f"R@{depth}" for depth in _DEPTHS), "median rank"], rows)
    publish(f"Recall of {model}", host, {"model": model, "sets": results}, text, options.out)


def measure(stack: Running, collection: str, photos: Sequence[Photo]) -> dict[str, Any]:
    """Recall over all captions of all photos.

    Returns `recall` by depth as [value, low, high]: the bounds are a 95 % bootstrap interval over photos, since the
    captions of one photo are not independent.
    """
    index(stack.client, collection, photos)
    queries = [(number, caption) for number, photo in enumerate(photos) for caption in photo.captions]

    def rank(query: tuple[int, str]) -> int:
        return rank_of(stack.client, collection, query[1], photos[query[0]].id)

    with ThreadPoolExecutor(_CALLERS) as pool:
        ranks = np.array(list(pool.map(rank, queries)))
    owners = np.array([number for number, _ in queries])
    return {
        "photos": len(photos),
        "captions": len(queries),
        "median_rank": float(np.median(ranks)),
        "recall": {depth: _with_interval(ranks <= depth, owners, len(photos)) for depth in _DEPTHS},
    }


def rank_of(client: Client, collection: str, text: str, image_id: str) -> int:
    """The exact rank of an image under a text; 1 is the best.

    Raises RuntimeError when it has none, which must not count as a hit or a miss.
    """
    ranking = client.rank(Search(collection, (Term(text=text),)), image_id)
    rank = ranking.ranks[0].rank
    if rank is None:
        raise RuntimeError(f"{image_id} has no rank in {collection}")
    return rank


def _with_interval(found: np.ndarray, owners: np.ndarray, photos: int) -> list[float]:
    hits = np.bincount(owners, weights=found, minlength=photos)  # (photos,)
    captions = np.bincount(owners, minlength=photos)
    drawn = np.random.default_rng(0).integers(photos, size=(_RESAMPLES, photos))
    means = hits[drawn].sum(axis=1) / captions[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5)).tolist()
    return [float(found.mean()), low, high]


def _row(name: str, result: dict[str, Any]) -> list[object]:
    recalls = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in result["recall"].values()]
    return [name, result["photos"], result["captions"], *recalls, f"{result['median_rank']:.0f}"]


if __name__ == "__main__":
    main()
