"""What transformers leaves out of a GGUF file: how Llama 3.1 and its successors scale their rotary positions.

llama.cpp keeps the scaling as a tensor, `rope_freqs.weight`: what each frequency is divided by (1 for the fast ones, 8
for the slow ones). transformers 5.23 reads the weights and passes over it, and the model would measure distances as it
was never trained to.
"""

from pathlib import Path
from typing import Any

import torch

_NAME = "rope_freqs.weight"


def scale_rotary(model: Any, file: Path) -> bool:
    """Divides the model's rotary frequencies as the GGUF file says; False where it says nothing.

    A model that scales them itself is left as it is.
    """
    from gguf import GGUFReader

    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is None or getattr(rotary, "rope_type", "") != "default":
        return False
    divisors = next((tensor.data for tensor in GGUFReader(file).tensors if tensor.name == _NAME), None)
    if divisors is None or divisors.shape != tuple(rotary.inv_freq.shape):
        return False
    with torch.no_grad():
        rotary.inv_freq.div_(torch.tensor(divisors, device=rotary.inv_freq.device))
    return True
