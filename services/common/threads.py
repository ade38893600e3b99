"""One thread budget for torch, ONNX Runtime, FAISS and BLAS, because four libraries that each take all cores are slow.

Most of these libraries read the environment once, while they are imported; so `apply_thread_budget` runs first.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def apply_thread_budget(threads: int) -> None:
    """Limits the thread pools of libraries that are not imported yet to `threads`. What the operator set stays.

    Sets OMP_WAIT_POLICY=passive too: OpenMP threads that spin while they wait take the cores from the other services.
    """
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))


def limit_torch(threads: int) -> None:
    """Limits torch to `threads` inside an operator and to one operator at a time. Imports torch."""
    import torch

    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


def limit_faiss(threads: int) -> None:
    """Limits FAISS to `threads`. Imports faiss. A single query is fastest with one (measured: 0.7 against 2.1 ms)."""
    import faiss

    faiss.omp_set_num_threads(threads)


def onnx_session_options(threads: int) -> "onnxruntime.SessionOptions":
    """Session options with `threads` inside an operator, one operator at a time, and no spinning. Imports ONNX Runtime.

    Without spinning, an encoder that shares two cores with a generating rewriter goes from 25 to 11 ms (measured).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
