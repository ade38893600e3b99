"""Builds ONNX files from PyTorch modules once, and finds them again.

ONNX Runtime runs the compact networks about ten times faster on a CPU than PyTorch does (measured: 17 against 165 ms
for one image through EfficientNet-Lite2), and loads without PyTorch. A built file is named by the content of what it
was built from, so new weights never meet an old graph; it is written beside and renamed, so a crash leaves no half
file.
"""

import fcntl
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog

if TYPE_CHECKING:
    import onnxruntime
    from torch import Tensor, nn

_log = structlog.get_logger(__name__)

Example = dict[str, "Tensor"]

_IMAGES_AT_ONCE = 4


def built(folder: Path, name: str, key: str, build: Callable[[], "tuple[nn.Module, Example, list[str]]"]) -> Path:
    """The ONNX file `name-key.onnx` in `folder`, built now if it is not there.

    Args:
        folder: where built files are kept; made if missing.
        name: for people.
        key: hash of everything that the file depends on.
        build: gives the module, example inputs by name and the names of the outputs. The first dimension of every
            input and output is the batch; text inputs have a free second dimension too.
    """
    target = folder / f"{name}-{key[:16]}.onnx"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        # Embedder and captioner may start together; the second waits and finds the file.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_file():
            _log.info("building a model file, once", file=target.name)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                draft = Path(work) / target.name
                _export(draft, *build())
                draft.replace(target)
    return target


def _export(path: Path, module: "nn.Module", example: Example, outputs: list[str]) -> None:
    import torch
    from torch.export import Dim

    # It warns of torchvision's operators, which nothing here uses.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    batch, words = Dim("batch", min=1, max=4096), Dim("words", min=2, max=512)
    shapes = {name: {0: batch, 1: words} if value.dim() == 2 else {0: batch} for name, value in example.items()}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=example,
            input_names=list(example),
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path, include_initializers=True, external_data=False)


def open_session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Opens an ONNX file on the CPU with `threads` threads."""
    import onnxruntime

    from services.common.threads import onnx_session_options

    return onnxruntime.InferenceSession(str(path), onnx_session_options(threads), providers=["CPUExecutionProvider"])


def run_images(session: "onnxruntime.InferenceSession", pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Runs a network with the input `pixels` over N >= 1 images (H, W, 3) uint8; returns its first output, (N, ...).

    Four at a time, however many there are: what lies between the layers then stays in the processor's cache. Measured
    with the embedder's image tower on two EPYC cores: 26 ms of processor time for an image and 120 MB, against 34 ms
    and 590 MB for sixteen at a time.
    """
    parts = [
        session.run(None, {"pixels": np.stack(pixels[start : start + _IMAGES_AT_ONCE])})[0]
        for start in range(0, len(pixels), _IMAGES_AT_ONCE)
    ]
    outputs: np.ndarray = np.concatenate(parts)
    return outputs
