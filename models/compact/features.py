"""Computes once what the compact models are trained on: image features and sentence vectors of flickr8k.

    python -m models.compact.features --data ../shared/data/flickr8k --out FOLDER

For each split it writes NAME_lite2.npy and NAME_lite0.npy, pooled features (images, 2, 1280) of each photo as it is and
mirrored; NAME_lite2_grid.npy, (images, 2, 49, 1280) float16, for the captioner; NAME_text.npy, sentence vectors of the
captions (images, 5, 384). About 2 GB and ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from tokenizers import Tokenizer

from services.common.vision import onnx_build
from services.common.vision.efficientnet import Grid, load_efficientnet
from services.common.weights import MINILM_TOKENIZER
from services.embedder.encoders.compact_towers import NETWORKS, Sentences

BATCH = 16
CAPTIONS = 5


def captions_of(folder: Path) -> dict[str, list[str]]:
    """Image name -> its captions, in the order of the file."""
    captions: dict[str, list[str]] = {}
    with (folder / "images_captions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image_name"], []).append(row["comment"])
    return captions


def sentence_vectors(texts: list[str]) -> torch.Tensor:
    """MiniLM's vectors (texts, 384), scaled to length sqrt(384)."""
    tokenizer = Tokenizer.from_file(str(MINILM_TOKENIZER.verify()))
    tokenizer.no_padding()
    encoded = [e.ids[:64] for e in tokenizer.encode_batch(texts)]
    model, out = Sentences().eval(), torch.empty(len(texts), 384)
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    with torch.inference_mode():
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(encoded[i]) for i in rows], batch_first=True)
            out[rows] = model(ids, (ids != 0).long())
    return out


def image_features(folder: Path, names: list[str], session: onnxruntime.InferenceSession) -> np.ndarray:
    """Grids (images, 2, 49, 1280) float16, as they are and mirrored."""
    grids = np.empty((len(names), 2, 49, 1280), np.float16)
    for start in range(0, len(names), BATCH):
        part = names[start : start + BATCH]
        images = [Image.open(folder / "images" / name).convert("RGB").resize((224, 224)) for name in part]
        pixels = np.stack([np.asarray(image) for image in images])
        for view, batch in enumerate((pixels, np.ascontiguousarray(pixels[:, :, ::-1]))):
            grids[start : start + len(part), view] = session.run(None, {"pixels": batch})[0]
        print(f"\r{folder.name} {start + len(part)} / {len(names)}", end="", flush=True)
    print()
    return grids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="flickr8k, with train/ and val/")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    example = {"pixels": torch.zeros(2, 224, 224, 3, dtype=torch.uint8)}
    for split in ("val", "train"):
        captions = captions_of(args.data / split)
        texts = [texts[j % len(texts)] for texts in captions.values() for j in range(CAPTIONS)]
        np.save(args.out / f"{split}_text.npy", sentence_vectors(texts).view(len(captions), CAPTIONS, -1).numpy())
        for name in NETWORKS:
            graph = onnx_build.built(
                args.out, name, "train", lambda name=name: (Grid(load_efficientnet(name)), example, ["grid"])
            )
            grids = image_features(args.data / split, list(captions), onnx_build.open_session(graph, 2))
            np.save(args.out / f"{split}_{name}.npy", grids.mean(2, dtype=np.float32))
            if name == "lite2":
                np.save(args.out / f"{split}_{name}_grid.npy", grids)


if __name__ == "__main__":
    main()
