"""Chat models through transformers, from a local folder or a GGUF file: Llama and whatever else has a chat template.

Greedy, one answer at a time, streamed token by token. The keys and values of the tokens that a prompt shares with the
prompt before (the instruction and the examples: nearly all of it) are kept, so that only the new end is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from services.rewriter.models.base import Generation, Message
from warmer.errors import FailedPrecondition, WarmerError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_REPLACEMENT = "\ufffd"  # what half a character decodes to


def choose_dtype(dtype: Dtype) -> torch.dtype:
    """The precision to load in. `auto` is bfloat16 where the CPU computes in it, for it halves memory and prefill."""
    if dtype != "auto":
        return _DTYPES[dtype]
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


class LlamaModel:
    """A causal language model with its tokenizer; see `LanguageModel` for the methods. Not thread-safe."""

    def __init__(self, model: Any, tokenizer: Any, *, id: str, backend: str) -> None:
        self.id = id
        self.backend = backend
        self.max_tokens = int(getattr(model.config, "max_position_embeddings", 0)) or 2048
        self._model = model
        self._tokenizer = tokenizer
        self._known: list[int] = []  # the tokens whose keys and values are in the cache
        self._cache: DynamicCache | None = None

    @classmethod
    def load(
        cls, folder: Path, *, gguf_file: str | None = None, dtype: Dtype = "auto", id: str = "", backend: str = "llama"
    ) -> LlamaModel:
        """Loads a checkpoint: a folder as `save_pretrained` writes it, or a GGUF file inside `folder`.

        Raises FailedPrecondition (MODEL_NOT_INSTALLED, MODEL_DAMAGED or NO_CHAT_TEMPLATE).
        """
        place = folder / (gguf_file or "config.json")
        if not place.is_file():
            raise FailedPrecondition(
                f"no language model at {place}", reason="MODEL_NOT_INSTALLED", hint="check the path of the model"
            )
        transformers_logging.disable_progress_bar()  # a service's log is no terminal
        more = {"gguf_file": gguf_file} if gguf_file else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **more)
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype=choose_dtype(dtype), **more
            )
        except WarmerError:
            raise
        except Exception as error:  # each format has exceptions of its own; what they say is passed on
            raise FailedPrecondition(
                f"the language model at {place} cannot be loaded: {error}",
                reason="MODEL_DAMAGED",
                hint="check that the files are whole and are a causal language model",
            ) from error
        if not tokenizer.chat_template:
            raise FailedPrecondition(
                f"the language model at {place} has no chat template",
                reason="NO_CHAT_TEMPLATE",
                hint="use an instruct or chat checkpoint",
            )
        return cls(model.eval(), tokenizer, id=id or folder.name, backend=backend)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the rendered chat. A last message of the assistant is left open: the answer goes on from it.

        The template writes the special tokens, and the tokenizer adds none: no doubled beginning of sequence.
        """
        opened = bool(messages) and messages[-1]["role"] == "assistant"
        text = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=not opened, continue_final_message=opened
        )
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        on_text: Callable[[str], None],
        should_stop: Callable[[], bool],
    ) -> Generation:
        """See `LanguageModel.generate`. The text is what was newly written, without an opening in `messages`.

        Raises FailedPrecondition (PROMPT_TOO_LONG) when the chat leaves no room for the answer.
        """
        prompt = self.encode(messages)
        if len(prompt) + max_new_tokens > self.max_tokens:
            raise FailedPrecondition(
                f"the prompt has {len(prompt)} tokens; with {max_new_tokens} new ones {self.max_tokens} are possible",
                reason="PROMPT_TOO_LONG",
                hint="send shorter texts",
            )
        watch = _Watch(self._tokenizer, len(prompt), on_text, should_stop)
        tokens = self._run(prompt, max_new_tokens, watch)
        return watch.generation(tokens[len(prompt) :], max_new_tokens)

    def _run(self, prompt: list[int], max_new_tokens: int, watch: StoppingCriteria) -> list[int]:
        """Prompt and answer. The cache is kept only after a whole run, for it may hold half a step after an error."""
        cache = self._reuse(prompt)
        ids = torch.tensor([prompt], device=self._model.device)  # (1, T)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._pad(),
                stopping_criteria=StoppingCriteriaList([watch]),
            )
        tokens: list[int] = output[0].tolist()
        self._keep(cache, tokens)
        return tokens

    def _pad(self) -> int | None:
        pad: int | None = self._tokenizer.pad_token_id
        end: int | None = self._tokenizer.eos_token_id
        return pad if pad is not None else end

    def _reuse(self, prompt: list[int]) -> DynamicCache:
        """The cache cut to what this prompt shares with the one before; at least one token is left to compute."""
        shared = 0
        for ours, theirs in zip(prompt[:-1], self._known, strict=False):
            if ours != theirs:
                break
            shared += 1
        cache, self._cache = self._cache, None
        if cache is None or not shared:
            return DynamicCache(config=self._model.config)
        surplus = cache.get_seq_length() - shared
        if surplus > 0:
            cache.crop(-surplus)
        return cache

    def _keep(self, cache: DynamicCache, tokens: list[int]) -> None:
        # Layers with a sliding window forget the beginning, so only plain ones can be cut back to it.
        if all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers):
            self._cache = cache
            self._known = tokens[: cache.get_seq_length()]


class _Watch(StoppingCriteria):  # type: ignore[misc]
    """Looks at the answer after each token: streams its text, and ends it at a line break or when told to."""

    def __init__(
        self, tokenizer: Any, begin: int, on_text: Callable[[str], None], should_stop: Callable[[], bool]
    ) -> None:
        self._tokenizer = tokenizer
        self._begin = begin
        self._on_text = on_text
        self._should_stop = should_stop
        self._sent = 0

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        text = self._decode(input_ids[0, self._begin :].tolist())
        line = _first_line(text)
        if len(line) > self._sent and not line.endswith(_REPLACEMENT):
            self._on_text(line[self._sent :])
            self._sent = len(line)
        done = _has_line(text) or self._should_stop()
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)

    def generation(self, new: list[int], max_new_tokens: int) -> Generation:
        """What was written; streams what was held back."""
        text = self._decode(new)
        line = _first_line(text)
        if len(line) > self._sent:
            self._on_text(line[self._sent :])
            self._sent = len(line)
        ended = _has_line(text) or (bool(new) and new[-1] in self._special())
        return Generation(line, len(new), finished=ended or (len(new) < max_new_tokens and not self._should_stop()))

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _special(self) -> set[int]:
        return set(self._tokenizer.all_special_ids)


def _first_line(text: str) -> str:
    """The first line that has something on it; blank lines before it are dropped, blanks inside are kept."""
    return text.lstrip("\r\n").partition("\n")[0]


def _has_line(text: str) -> bool:
    """Whether the first line is complete."""
    return "\n" in text.lstrip("\r\n")
