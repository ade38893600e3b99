"""What the tokenizers of tiny checkpoints are made of: a few sentences, and byte-pair encodings learned from them."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

SENTENCES = (
    "a black dog and a white dog run on a grassy field",
    "two children play with a red ball on the beach",
    "a man in a blue shirt rides a bicycle down the street",
    "the cat sleeps on a wooden chair beside the window",
    "a woman with a yellow umbrella walks in the rain",
    "a rocket stands on the launch pad before a cloudy sky",
    "a cup of coffee and a spoon on a saucer",
    "people sit at a table and eat in front of a lake",
)


def learn(
    model: BPE, like: Tokenizer, trainer: BpeTrainer, texts: Iterable[str] = SENTENCES
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of `model`, learned from texts that are split as the tokenizer `like` splits them."""
    blank = Tokenizer(model)
    blank.normalizer, blank.pre_tokenizer = like.normalizer, like.pre_tokenizer
    blank.train_from_iterator(texts, trainer)
    learned = json.loads(blank.to_str())["model"]
    return learned["vocab"], [(first, second) for first, second in learned["merges"]]
