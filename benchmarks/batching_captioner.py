"""The captioner's rows of `benchmarks.batching`: a LLaVA-NeXT in batches against the same model one image at a time.

The model is far smaller than the real one (17 million parameters, not 7 billion) and its weights are random: its rates
say nothing of another machine, the ratio says what batches are worth on this one. There are two parts to it. Reading an
image is arithmetic over one to three thousand tokens, which keeps a processor busy with one image already. Writing
reads all weights again for every token, and a batch shares that. So there is a row for images as LLaVA-NeXT reads them
(336 px tiles, patches of 14 px), and one with larger patches, where an image is few tokens and writing is what counts.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.batching import Row, compare
from benchmarks.photos import load_photos
from services.captioner.models import load_captioner
from services.common import decode_worker
from services.common.decoding import Resize
from services.common.settings import Settings
from tests.tiny import llava_next

TOKENS = 24  # of a caption; random weights seldom end one, so all captions get as many
PATCHES = {14: 8, 56: 4}  # edge of a patch in pixels: an image costs so much that only this part of the items is read


def captioner_rows(options: argparse.Namespace, settings: Settings, work: Path, batch: int = 8) -> list[Row]:
    """A row for each size of patch, with photos as large as the orchestrator sends them (`caption_max_edge`)."""
    rows = []
    for patch, part in PATCHES.items():
        folder = llava_next.build(work / f"llava-{patch}", size=replace(llava_next.MIDDLE, patch=patch))
        _let_it_never_end(folder)
        captioner = load_captioner(
            settings.with_changes(
                captioner_backend="transformers",
                captioner_model=str(folder),
                captioner_precision=options.precision,
                captioner_max_new_tokens=TOKENS,
            )
        )
        files = [photo.path.read_bytes() for photo in load_photos(options.data, max(batch, options.items // part))]
        resize = Resize("max_edge", settings.caption_max_edge)
        decoded = decode_worker.decode_chunk(files, resize, settings.max_image_pixels)
        images = [result.array for result in decoded if isinstance(result, decode_worker.Pixels)]
        rates = compare(partial(captioner.caption, on_text=lambda _index, _text: None), images, batch, options)
        precision = str(getattr(captioner, "precision", ""))
        rows.append(
            Row("captioner", f"small LLaVA-NeXT, {patch} px patches, {TOKENS} tokens", precision, batch, *rates)
        )
    return rows


def _let_it_never_end(folder: Path) -> None:
    """Takes the end of a caption from what the model may write."""
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    config["suppress_tokens"].append(config["eos_token_id"])
    path.write_text(json.dumps(config))
