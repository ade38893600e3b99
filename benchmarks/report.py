"""What all benchmarks do with their samples: medians and 95th percentiles, a Markdown table, a JSON file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: `--data` and `--out`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/data/flickr8k/val"),
        help="folder with images/ and images_captions.csv (columns image_name,comment)",
    )
    parser.add_argument("--out", type=Path, help="write the result there too, as JSON")
    return parser


def quantiles(samples: Sequence[float]) -> dict[str, float]:
    """Number, median and 95th percentile of samples; no percentile of nothing."""
    if not samples:
        return {"n": 0}
    values = np.asarray(samples, dtype=np.float64)
    p50, p95 = np.percentile(values, (50, 95)).tolist()
    return {"n": len(samples), "p50": p50, "p95": p95}


def milliseconds(summary: dict[str, float]) -> str:
    """`p50 / p95` in milliseconds; a dash where there are no samples."""
    if not summary.get("n"):
        return "-"
    return f"{_number(1e3 * summary['p50'])} / {_number(1e3 * summary['p95'])}"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "|".join(["---", *["---:"] * (len(headers) - 1)]) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def publish(name: str, host: dict[str, Any], result: dict[str, Any], text: str, out: Path | None) -> None:
    """Prints the machine and the table; writes all as JSON to `out`, if that is given."""
    print(f"\n## {name}\n\n{machine.sentence(host)}\n\n{text}\n", flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        document = {"benchmark": name, "machine": host, **result}
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
