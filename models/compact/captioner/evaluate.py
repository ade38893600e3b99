"""Scores the compact captioner with the standard scorer (pycocoevalcap) on a folder in the Flickr layout.

    python -m models.compact.captioner.evaluate --data ../shared/data/flickr8k/val

Captions every photothrough `CompactCaptioner`, as the service does, in batches of 50, and prints BLEU-1 to 4, CIDEr
and ROUGE-L against all captions of each photo. Needs `pip install --no-deps pycocoevalcap`, and Java for its
tokenizer (PTBTokenizer).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from models.compact.features import captions_of
from services.captioner.models.compact import CompactCaptioner
from services.common.settings import load_settings

BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with images/ and images_captions.csv")
    args = parser.parse_args()
    captioner = CompactCaptioner.load(load_settings())
    captions = captions_of(args.data)
    names, written, seconds = list(captions), {}, 0.0
    for start in range(0, len(names), BATCH):
        part = names[start : start + BATCH]
        images = [Image.open(args.data / "images" / name).convert("RGB") for name in part]
        pixels = [np.asarray(image.resize((captioner.resize.size,) * 2, Image.Resampling.BICUBIC)) for image in images]
        began = time.perf_counter()
        texts = captioner.caption(pixels, lambda _index, _text: None)
        seconds += time.perf_counter() - began
        written |= {name: [{"caption": text.text}] for name, text in zip(part, texts, strict=True)}
    tokenizer = PTBTokenizer()
    truth = tokenizer.tokenize({name: [{"caption": text} for text in captions[name]] for name in names})
    ours = tokenizer.tokenize(written)
    scores = {"CIDEr": Cider().compute_score(truth, ours)[0], "ROUGE-L": Rouge().compute_score(truth, ours)[0]}
    scores |= {f"BLEU-{i}": s for i, s in enumerate(Bleu(4).compute_score(truth, ours, verbose=0)[0], 1)}
    print(f"{captioner.id}, {len(names)} photos, {1000 * seconds / len(names):.0f} ms each in batches of {BATCH}")
    print("  ".join(f"{name} {score:.3f}" for name, score in sorted(scores.items())))
    for name in random.Random(0).sample(names, 5):
        print(f"{name}: {ours[name][0]}")


if __name__ == "__main__":
    main()
