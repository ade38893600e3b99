"""The computed memory of the big models: what it is made of is right, and docs/models.md says what it computes."""

from __future__ import annotations

import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.architectures import PINPOINTS, image_tokens, llava
from benchmarks.model_memory import Count, count, peak, tables, weight_bytes

DOCS = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_docs_say_what_is_computed() -> None:
    told = dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n<!-- end -->", DOCS.read_text(encoding="utf-8"), re.DOTALL))
    assert told == tables(), "run `python -m benchmarks.model_memory` and take its tables over"


def test_image_tokens_are_those_of_the_processor() -> None:
    from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor as Processor

    kind = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=[list(p) for p in PINPOINTS]),
        patch_size=14,
        num_additional_image_tokens=0,  # the class token, which the vision feature strategy `default` drops again
    )
    kind._get_unpadded_features = lambda *sizes: Processor._get_unpadded_features(kind, *sizes)
    draw = random.Random(0)
    sizes = [(384, 384), (288, 384), (384, 216)] + [
        (draw.randint(30, 2000), draw.randint(30, 2000)) for _ in range(300)
    ]
    for height, width in sizes:
        assert image_tokens(height, width) == Processor._get_number_of_features(kind, height, width, 336, 336)
    assert image_tokens(384, 384) == max(image_tokens(*size) for size in sizes) == 2928


def test_what_is_counted_is_what_transformers_quantises() -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    with torch.device("meta"):
        model = llava(torch.float16, layers=1)
        found = count(model)
        replaced = replace_with_bnb_linear(
            model, get_keys_to_not_convert(model), BitsAndBytesConfig(load_in_8bit=True), False
        )
    layers = [module for module in replaced.modules() if type(module).__name__ == "Linear8bitLt"]
    assert sum(layer.in_features * layer.out_features for layer in layers) == found.quantised
    assert sum(layer.out_features for layer in layers) == found.rows


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantised_weights_take_what_is_computed(precision: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(1024, 2048, bias=False)
    computed = weight_bytes(Count(linear.weight.numel(), 2048, 0), precision)
    if precision == "int8":
        weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False).to("cpu")
        scales = [weight.SCB if weight.SCB is not None else bnb.functional.int8_vectorwise_quant(linear.weight.data)[1]]
        size = linear.weight.numel() + sum(scale.nbytes for scale in scales)
    else:
        packed, state = bnb.functional.quantize_4bit(linear.weight.data, quant_type="nf4", compress_statistics=True)
        size = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert size == pytest.approx(computed, rel=0.001)


def test_the_peak_is_what_is_held_at_once() -> None:
    def work() -> torch.Tensor:
        first = torch.empty(2**28)  # 1 GiB each; nothing is touched, so nothing is really taken
        second = first[:1].expand(1)
        del first
        return second

    assert peak(work) == pytest.approx(1.0, abs=0.01)
