"""Finds and loads checkpoints of the big models: where they lie, in which precision and attention, on what device.

A name is a local folder or GGUF file, something that `warmer models fetch` brought, or, where the operator allows it,
an id of the Hugging Face hub. Embedder, captioner and rewriter load through here, so that they agree on all of it and
fail with the same words.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import structlog
import torch

from services.common.fetched import fetched_folder
from services.common.settings import Settings
from warmer.errors import FailedPrecondition, Unavailable, WarmerError

_log = structlog.get_logger(__name__)

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_UNKNOWN_KIND = re.compile(
    r"recogni[sz]e"
)  # transformers: "Unrecognized model", "does not recognize this architecture"
_SAMPLE = 1 << 20  # bytes of each end of a weight file that go into its fingerprint
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pth", ".ckpt", ".pt")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
QUANTISED = ("int8", "nf4")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found. `place` is what `from_pretrained` takes; `path` is None for one on the hub."""

    name: str
    place: str
    path: Path | None = None
    gguf_file: str = ""

    @property
    def id(self) -> str:
        """Name and fingerprint: two checkpoints of one name are told apart."""
        return f"{Path(self.name).name}@{fingerprint(self.path)}" if self.path else self.name

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained` of this checkpoint."""
        more = {"gguf_file": self.gguf_file} if self.gguf_file else {}
        return {"pretrained_model_name_or_path": self.place, "local_files_only": self.path is not None, **more}


def find_file(name: str, settings: Settings, variable: str) -> Path:
    """The file or folder that `name` means: a path, or what was fetched under that name.

    Raises FailedPrecondition (MODEL_NOT_SET or MODEL_NOT_FOUND). `variable` is the setting, for the message.
    """
    if not name:
        raise FailedPrecondition(
            f"{variable} names no model", reason="MODEL_NOT_SET", hint=f"set {variable}; docs/models.md has examples"
        )
    for path in (Path(name).expanduser(), fetched_folder(settings, name)):
        if path.exists():
            return path
    raise FailedPrecondition(
        f"there is no model {name!r}: no file or folder of that name, and nothing fetched (set by {variable})",
        reason="MODEL_NOT_FOUND",
        hint="correct the path, or run `warmer models fetch`; `warmer models list` shows what there is",
    )


def find(name: str, settings: Settings, variable: str) -> Checkpoint:
    """The checkpoint that `name` means. Raises as `find_file`."""
    try:
        path = find_file(name, settings, variable)
    except FailedPrecondition as error:
        if error.reason == "MODEL_NOT_FOUND" and settings.allow_hub and _HUB_ID.fullmatch(name):
            return Checkpoint(name, name)
        raise
    if path.is_file() and path.suffix == ".gguf":
        return Checkpoint(name, str(path.parent), path, path.name)
    inside = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if inside and not (path / "config.json").is_file():
        return Checkpoint(name, str(path), inside[0], inside[0].name)
    if not (path / "config.json").is_file():
        raise FailedPrecondition(
            f"{path} is no checkpoint: it has no config.json (set by {variable})",
            reason="MODEL_NOT_FOUND",
            hint="give the folder that holds config.json, or a .gguf file",
        )
    return Checkpoint(name, str(path), path)


@cache
def fingerprint(path: Path) -> str:
    """12 hex digits over a checkpoint's configuration, and the names, sizes and ends of its weight files.

    Whole files are not read: those of the big models have many gigabytes.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.suffix in (*_WEIGHTS, ".json"))
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(_SAMPLE))
            if size > _SAMPLE:
                content.seek(max(_SAMPLE, size - _SAMPLE))
                digest.update(content.read())
    return digest.hexdigest()[:12]


def device_of(settings: Settings) -> torch.device:
    """Where to compute. Raises FailedPrecondition (NO_GPU) when a GPU is asked for that is not there."""
    wanted = settings.device
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FailedPrecondition(
            f"WARMER_DEVICE is {wanted}, but {torch.cuda.device_count()} GPUs can be used here",
            reason="NO_GPU",
            hint="set WARMER_DEVICE=auto, or install a CUDA build of torch and its driver",
        )
    return device


def computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices itself, which halves memory and time."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolved(precision: str, device: torch.device) -> str:
    """The precision to load in: `auto` is fp16 on a GPU, bf16 on a CPU that computes in it, else fp32."""
    if precision != "auto":
        return precision
    return "fp16" if device.type == "cuda" else "bf16" if computes_bf16() else "fp32"


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """The number format of what is not quantised. bitsandbytes multiplies int8 weights in fp16 on every device."""
    if precision == "int8":
        return torch.float16
    return _DTYPES[resolved("auto" if precision in QUANTISED else precision, device)]


def attention_of(settings: Settings, device: torch.device, dtype: torch.dtype) -> str:
    """The attention to ask transformers for. What is wanted but cannot be had becomes sdpa, with a line in the log."""
    if settings.attention in ("sdpa", "eager"):
        return settings.attention
    problem = _why_no_flash(device, dtype)
    if not problem:
        _say("attention", kernels="flash_attention_2")
        return "flash_attention_2"
    if settings.attention == "flash":
        _say("flash attention is asked for and cannot be used; sdpa is", problem=problem)
    else:
        _say("attention", kernels="sdpa", because=problem)
    return "sdpa"


def _why_no_flash(device: torch.device, dtype: torch.dtype) -> str:
    from transformers.utils import is_flash_attn_2_available

    if device.type != "cuda":
        return "there is no GPU"
    if dtype is torch.float32:
        return "flash-attn does not compute in fp32"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than Ampere"
    return "" if is_flash_attn_2_available() else "the package flash-attn is not installed"


@cache
def _say(event: str, **facts: str) -> None:
    """Logs once: several models of one process would say the same."""
    _log.info(event, **facts)


def load(kind: Any, checkpoint: Checkpoint, precision: str, settings: Settings) -> Any:
    """`kind.from_pretrained` (a class of transformers) in this precision, on the settings' device, in eval mode.

    Raises FailedPrecondition: MODEL_DAMAGED, WRONG_ARCHITECTURE, NO_QUANTISATION, NO_GPU or OUT_OF_MEMORY;
    Unavailable (HUB_UNREACHABLE).
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a service's log is no terminal
    device = device_of(settings)
    dtype = dtype_of(precision, device)
    arguments = checkpoint.arguments | {
        "dtype": dtype,
        "attn_implementation": attention_of(settings, device, dtype),
        "device_map": {"": str(device)},
    }
    if precision in QUANTISED:
        arguments["quantization_config"] = _quantisation(precision, dtype)
    with loading(checkpoint):
        try:
            model, report = kind.from_pretrained(**arguments, output_loading_info=True)
        except ValueError as error:
            if "attn_implementation" not in str(error):
                raise
            _say("attention", kernels="eager", because="the architecture knows no other")
            arguments["attn_implementation"] = "eager"
            model, report = kind.from_pretrained(**arguments, output_loading_info=True)
        check_keys(checkpoint, report)
    return model.eval()


def _quantisation(precision: str, dtype: torch.dtype) -> Any:
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise FailedPrecondition(
            f"{precision} needs the package bitsandbytes, which is not installed",
            reason="NO_QUANTISATION",
            hint="pip install 'warmer[gpu]', or choose fp16, bf16 or fp32",
        )
    from transformers import BitsAndBytesConfig

    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )


def check_keys(checkpoint: Checkpoint, report: dict[str, Any]) -> None:
    """Raises FailedPrecondition (WRONG_ARCHITECTURE) when weights were missing: they would be random numbers."""
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise FailedPrecondition(
            f"{checkpoint.place} lacks {len(missing)} weights of its architecture, such as {missing[0]}",
            reason="WRONG_ARCHITECTURE",
            hint="check that the checkpoint is of the kind that this service needs, and whole",
        )


@contextmanager
def loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what libraries raise while they load a checkpoint into FailedPrecondition that says which one and why."""
    try:
        yield
    except WarmerError:
        raise
    except torch.OutOfMemoryError as error:
        raise FailedPrecondition(
            f"{checkpoint.place} does not fit into the GPU's memory: {_first_line(error)}",
            reason="OUT_OF_MEMORY",
            hint="choose a smaller precision (WARMER_PRESET=int8 or int4), or a larger GPU; see docs/models.md",
        ) from error
    except Exception as error:  # each format has exceptions of its own; what they say is passed on
        if checkpoint.path is None and isinstance(error, OSError):
            raise Unavailable(
                f"{checkpoint.place} cannot be had from the hub: {_first_line(error)}",
                reason="HUB_UNREACHABLE",
                hint="check the network, proxy and token; or bring it once with `warmer models fetch`",
            ) from error
        raise FailedPrecondition(
            f"{checkpoint.place} cannot be loaded: {_first_line(error)}",
            reason="WRONG_ARCHITECTURE" if _UNKNOWN_KIND.search(str(error)) else "MODEL_DAMAGED",
            hint="check that the files are whole (`warmer models verify`) and of the kind that this service needs",
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
