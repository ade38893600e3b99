"""The mean of several decoders' weights ("model soup", arXiv 2203.05482). No part of install, demo or tests.

    python -m models.compact.captioner.average FOLDER FOLDER ...

All must descend from the same weights, as two runs of reinforce.py do. Writes beside this file.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from models.compact.captioner.train import HERE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with decoder.safetensors and decoder.json")
    folders: list[Path] = parser.parse_args().folders
    decoders = [load_file(folder / "decoder.safetensors") for folder in folders]
    mean = {name: torch.stack([d[name].float() for d in decoders]).mean(0).half() for name in decoders[0]}
    save_file(mean, HERE / "decoder.safetensors")
    shutil.copyfile(folders[0] / "decoder.json", HERE / "decoder.json")


if __name__ == "__main__":
    main()
