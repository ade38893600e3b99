"""Does the model's rewrite find photos sooner than the plain join? Hunts through live services, and their comparison.

A hunt: round 0 searches with the first human caption of the target. If the target is not among the ten hits, a
simulated person marks the hit most like it (MiniLM similarity of human captions, so no model under test decides) and,
in every second hunt, comments with the next human caption of the target; this is repeated for three rounds. Strategy
`rewrite`, so that the words alone decide.

The collection must hold the photos of DATA/images, e.g. `warmer index DATA/images --collection val`. One stack for each
mode of the rewriter (WARMER_REWRITER_MODE=model, then join), the same hunts on each:

    python -m models.compact.rewriter.study hunt --data DATA --arm rewrite --out model.json    # mode model
    python -m models.compact.rewriter.study hunt --data DATA --arm rewrite --out join.json     # mode join
    python -m models.compact.rewriter.study hunt --data DATA --arm comment --out comment.json  # mode join
    python -m models.compact.rewriter.study hunt --data DATA --arm next --out next.json        # any mode
    python -m models.compact.rewriter.study compare join.json model.json comment.json next.json

Arms: `rewrite` marks and comments; `comment` comments without a mark, so that no caption comes in; `next` says nothing,
which is the next page: a loop that is not compared with it proves nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath

import numpy as np

from services.common.weights import MINILM_WEIGHTS
from warmer import Client
from warmer.names import image_id_from_path

ROUNDS = 3
PAGE = 10
RESAMPLES = 10_000


@dataclass
class Hunt:
    """One hunt as it went. `hits[r]` is whether the target had been displayed by round r; `ranks[r]` its rank under
    the search of round r, nothing excluded, carried forward after the find."""

    target: str
    commented: bool
    hits: list[bool] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def read_captions(data: Path) -> dict[str, list[str]]:
    """Human captions by image id, from DATA/images_captions.csv."""
    captions: dict[str, list[str]] = {}
    with (data / "images_captions.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(image_id_from_path(PurePath(row["image_name"])), []).append(row["comment"].strip())
    return captions


def caption_vectors(captions: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Unit mean (384,) of the MiniLM vectors of each image's captions."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = MINILM_WEIGHTS.find().parent
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    vectors = {}
    for id, texts in captions.items():
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**batch).last_hidden_state  # (texts, tokens, 384)
        mask = batch["attention_mask"].unsqueeze(-1)
        means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).mean(0).numpy()
        vectors[id] = means / np.linalg.norm(means)
    return vectors


def run_hunt(
    client: Client, collection: str, arm: str, hunt: Hunt, texts: list[str], vectors: dict[str, np.ndarray]
) -> None:
    """Plays one hunt and fills `hunt`."""
    session = client.sessions.create(collection, strategy="rewrite", page_size=PAGE)
    try:
        step = session.search(texts[0])
        for index in range(ROUNDS + 1):
            begin = time.perf_counter()
            if index:
                comment = texts[index] if hunt.commented and arm != "next" else ""
                displayed = [hit.image_id for hit in step.hits]
                marked = max(displayed, key=lambda id: float(vectors[id] @ vectors[hunt.target]))
                step = session.refine(relevant=[marked] if arm == "rewrite" else [], comment=comment)
                if step.rewrite is not None:
                    hunt.fallbacks.append(step.rewrite.fallback_reason or "none")
            hunt.seconds.append(time.perf_counter() - begin)
            hunt.queries.append(step.query)
            assert step.search is not None
            rank = client.rank(step.search, [hunt.target]).ranks[0].rank
            if rank is None:
                raise SystemExit(f"{hunt.target} is not in the collection {collection}")
            hunt.ranks.append(rank)
            hunt.hits.append(hunt.target in {hit.image_id for hit in step.hits})
            if hunt.hits[-1]:
                break
    finally:
        session.delete()
    missing = ROUNDS + 1 - len(hunt.hits)
    hunt.hits += hunt.hits[-1:] * missing
    hunt.ranks += hunt.ranks[-1:] * missing


def hunt_all(options: argparse.Namespace) -> None:
    """Plays the hunts of one arm and writes them to `--out`."""
    captions = read_captions(options.data)
    vectors = caption_vectors(captions)
    targets = sorted(captions)
    random.Random(options.seed).shuffle(targets)
    hunts = [Hunt(target, commented=i % 2 == 0) for i, target in enumerate(targets[: options.hunts])]
    begin = time.perf_counter()
    with Client(options.target, round_timeout_s=120) as client:
        for done, hunt in enumerate(hunts, 1):
            run_hunt(client, options.collection, options.arm, hunt, captions[hunt.target], vectors)
            if done % 20 == 0 or done == len(hunts):
                per_second = done / (time.perf_counter() - begin)
                left = (len(hunts) - done) / per_second
                print(f"{done}/{len(hunts)} hunts, {per_second:.2f} per s, {left:.0f} s left", file=sys.stderr)
    options.out.write_text(json.dumps([asdict(hunt) for hunt in hunts], indent=1), encoding="utf-8")


def compare(options: argparse.Namespace) -> None:
    """Prints each arm's figures, and its differences to the first arm."""
    arms = {path.stem: [Hunt(**hunt) for hunt in json.loads(path.read_text("utf-8"))] for path in options.files}
    first, *others = arms
    for name, hunts in arms.items():
        if [h.target for h in hunts] != [h.target for h in arms[first]]:
            raise SystemExit(f"{name} and {first} are not of the same hunts")
    print_arms(arms)
    if others:
        print(f"\nDifference to {first} (95 % interval, paired bootstrap over hunts)\n")
        print("| arm | hunts | Hits@10, 1 round | Hits@10, 3 rounds | Recall@10, 1 round | Recall@10, 3 rounds |")
        print("|---|---|---|---|---|---|")
    for name in others:
        for label, wanted in (("all", {True, False}), ("with comment", {True}), ("without", {False})):
            pairs = [(a, b) for a, b in zip(arms[name], arms[first], strict=True) if a.commented in wanted]
            cells = [difference(pairs, kind, rounds) for kind in ("hits", "recall") for rounds in (1, 3)]
            print(f"| {name} | {label} ({len(pairs)}) | {' | '.join(cells)} |")


def print_arms(arms: dict[str, list[Hunt]]) -> None:
    """The table of the arms, and how often each fell back and why."""
    print("| arm | hunts | Hits@10 at rounds 0..3 | Recall@10 by round 0..3 | fell back | s per round, median |")
    print("|---|---|---|---|---|---|")
    for name, hunts in arms.items():
        reasons = Counter(reason for hunt in hunts for reason in hunt.fallbacks)
        total = sum(reasons.values())
        fell_back = f"{1 - reasons['none'] / total:.1%} of {total}" if total else "no rewrites"
        hits = " ".join(f"{np.mean([h.hits[r] for h in hunts]):.3f}" for r in range(ROUNDS + 1))
        recall = " ".join(f"{np.mean([h.ranks[r] <= PAGE for h in hunts]):.3f}" for r in range(ROUNDS + 1))
        seconds = [s for hunt in hunts for s in hunt.seconds[1:]]
        median = f"{np.median(seconds):.2f}" if seconds else "-"
        print(f"| {name} | {len(hunts)} | {hits} | {recall} | {fell_back} | {median} |")
    print()
    for name, hunts in arms.items():
        print(f"{name}: fallback reasons {dict(Counter(r for h in hunts for r in h.fallbacks).most_common())}")


def difference(pairs: list[tuple[Hunt, Hunt]], kind: str, rounds: int) -> str:
    """Mean difference of the first to the second of each pair, with its interval."""

    def value(hunt: Hunt) -> float:
        return float(hunt.hits[rounds]) if kind == "hits" else float(hunt.ranks[rounds] <= PAGE)

    if not pairs:
        return "-"
    differences = np.array([value(a) - value(b) for a, b in pairs])
    samples = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    low, high = np.quantile(differences[samples].mean(1), [0.025, 0.975])
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    hunt = commands.add_parser("hunt", help="play the hunts of one arm through a running stack")
    hunt.add_argument("--data", type=Path, required=True, help="folder with images/ and images_captions.csv")
    hunt.add_argument("--arm", choices=["rewrite", "comment", "next"], required=True)
    hunt.add_argument("--out", type=Path, required=True, help="JSON file to write")
    hunt.add_argument("--target", help="gRPC target of the orchestrator; default: WARMER_TARGET, else localhost:50050")
    hunt.add_argument("--collection", default="val", help="id of the collection (default: val)")
    hunt.add_argument("--hunts", type=int, default=300, help="how many hunts (default: 300)")
    hunt.add_argument("--seed", type=int, default=0, help="which targets (default: 0)")
    hunt.set_defaults(run=hunt_all)
    comparison = commands.add_parser("compare", help="compare arms; the first is the baseline")
    comparison.add_argument("files", type=Path, nargs="+")
    comparison.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
