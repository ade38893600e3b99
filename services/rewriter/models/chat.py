"""Chat models through transformers: Llama 3.1 and others with a chat template, from a folder, a GGUF file or a hub.

Greedy, in batches, each row streamed by itself. All prompts begin alike (the instruction and the examples: nearly all
of a prompt), so the keys and values of that beginning are computed once, when the model is warmed, and copied for each
batch. A batch is then: the beginning, padding, and the end of each prompt. The padding is masked and takes no
position, so every row sees what it would see alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from services.common import checkpoints
from services.common.checkpoints import Checkpoint
from services.common.generation import BatchWatch, Generated, end_ids, pad_id
from services.common.settings import Settings
from services.common.threads import limit_torch
from services.common.visible import VisibleText
from services.rewriter.models.base import Chat, Generation, Request
from services.rewriter.models.chat_template import ChatTemplate, template_of
from services.rewriter.models.gguf import scale_rotary
from warmer.errors import FailedPrecondition, Internal, ResourceExhausted, WarmerError

_log = structlog.get_logger(__name__)

_UNKNOWN_LENGTH = 2048  # tokens; the least of today's chat models


class ChatModel:
    """A causal language model with its tokenizer; see `LanguageModel` for the methods. Not thread-safe."""

    def __init__(
        self, model: Any, tokenizer: Any, template: ChatTemplate, *, id: str, backend: str, precision: str
    ) -> None:
        self.id = id
        self.backend = backend
        self.precision = precision
        self.device = str(model.device)
        config = model.config.get_text_config(decoder=True)
        self.max_tokens = int(getattr(config, "max_position_embeddings", 0)) or _UNKNOWN_LENGTH
        self._model = model
        self._tokenizer = tokenizer
        self._ends = end_ids(model, tokenizer) | template.turn_ends
        self.encode = template.encode
        self._samples: Sequence[Chat] = ()
        self._prefix: list[int] = []  # the tokens whose keys and values are kept
        self._kept: DynamicCache | None = None

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, precision: str, settings: Settings, *, id: str = "", backend: str = "transformers"
    ) -> ChatModel:
        """Loads a checkpoint in `precision` (fp32, fp16, bf16, int8, nf4, or auto: as the device has it).

        What costs little is checked before the weights are read. Raises FailedPrecondition: WRONG_ARCHITECTURE,
        NO_CHAT_TEMPLATE, NO_QUANTISATION, and those of `checkpoints.load`.
        """
        limit_torch(settings.threads)
        precision = checkpoints.resolved(precision, checkpoints.device_of(settings))
        _check_kind(checkpoint, precision)
        with checkpoints.loading(checkpoint):
            tokenizer = AutoTokenizer.from_pretrained(**checkpoint.arguments)
        template = template_of(tokenizer, checkpoint)
        model = checkpoints.load(AutoModelForCausalLM, checkpoint, precision, settings)
        if checkpoint.gguf_file and checkpoint.path:
            scale_rotary(model, checkpoint.path)
        name = f"{id or checkpoint.id}-{precision}"
        return cls(model, tokenizer, template, id=name, backend=backend, precision=precision)

    def warm(self, chats: Sequence[Chat]) -> None:
        """See `LanguageModel.warm`: keeps what the chats begin with, and writes a word.

        Raises FailedPrecondition (OUT_OF_MEMORY, PROMPT_TOO_LONG or MODEL_FAILED): it would fail for everybody.
        """
        self._samples = chats
        try:
            self._keep_prefix()
            outcomes = self.generate([Request(chat) for chat in chats], max_new_tokens=2)
        except Exception as error:  # what libraries raise is not documented
            _log.exception("the language model cannot be warmed")
            outcomes = [_problem(error)]
        for outcome in outcomes:
            if isinstance(outcome, WarmerError):
                raise FailedPrecondition(outcome.message, reason=outcome.reason, hint=outcome.hint)

    def generate(self, requests: Sequence[Request], *, max_new_tokens: int) -> list[Generation | WarmerError]:
        """See `LanguageModel.generate`. The text is what was newly written, without an opening in the chat.

        The error of one chat is FailedPrecondition (PROMPT_TOO_LONG: it leaves no room for the answer),
        ResourceExhausted (OUT_OF_MEMORY) or Internal (MODEL_FAILED).
        """
        rows = [_Row(request, self.encode(request.chat)) for request in requests]
        fitting = [row for row in rows if len(row.prompt) + max_new_tokens <= self.max_tokens]
        written = self._written(fitting, max_new_tokens) if fitting else iter(())
        return [next(written) if row in fitting else self._too_long(row, max_new_tokens) for row in rows]

    def _too_long(self, row: _Row, max_new_tokens: int) -> FailedPrecondition:
        return FailedPrecondition(
            f"the prompt has {len(row.prompt)} tokens; with {max_new_tokens} new ones {self.max_tokens} are possible",
            reason="PROMPT_TOO_LONG",
            hint="send shorter texts",
        )

    def _written(self, rows: list[_Row], max_new_tokens: int) -> Iterator[Generation | WarmerError]:
        """Halves a batch that fails until the row that is to blame stands alone, or what is left fits into memory."""
        try:
            yield from self._run(rows, max_new_tokens)
            return
        except Exception as error:  # what libraries raise is not documented
            problem = _problem(error)
            if len(rows) == 1 and problem.reason == "MODEL_FAILED":
                _log.exception("rewriting failed")
        # Outside of `except`: the traceback would keep the tensors of the whole batch alive.
        if len(rows) == 1:
            yield problem
            return
        _log.warning("a batch failed and is halved", items=len(rows), problem=str(problem))
        if problem.reason == "OUT_OF_MEMORY" and torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            yield from self._written(half, max_new_tokens)

    def _run(self, rows: list[_Row], max_new_tokens: int) -> list[Generation]:
        for row in rows:
            row.restart()
        prompts = [row.prompt for row in rows]
        shared = self._shared(prompts)
        width = max(map(len, prompts))
        watch = BatchWatch(
            self._tokenizer,
            width,
            lambda index, piece: rows[index].add(piece),
            lambda index: rows[index].over(),
            one_line=False,  # a line counts only behind the thoughts, which `VisibleText` knows
            end_ids=self._ends,
        )
        pad = pad_id(self._tokenizer, self._ends)
        ids = [p[:shared] + [pad] * (width - len(p)) + p[shared:] for p in prompts]
        mask = [[1] * shared + [0] * (width - len(p)) + [1] * (len(p) - shared) for p in prompts]
        sequences = self._greedy(ids, mask, self._copies(shared, len(rows)), max_new_tokens, watch)
        written = watch.results(sequences, max_new_tokens)
        return [row.generation(result) for row, result in zip(rows, written, strict=True)]

    def _greedy(
        self,
        ids: list[list[int]],
        mask: list[list[int]],
        cache: DynamicCache | None,
        max_new_tokens: int,
        watch: BatchWatch | None = None,
    ) -> torch.Tensor:
        """Prompts, (B, T) with a mask of the same shape, and answers: (B, T + new). Writes into `cache`."""
        with torch.inference_mode():
            sequences: torch.Tensor = self._model.generate(
                input_ids=torch.tensor(ids, device=self._model.device),
                attention_mask=torch.tensor(mask, device=self._model.device),
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,  # checkpoints bring settings for sampling, and these would be warned about
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,  # the query's words are to come again
                eos_token_id=sorted(self._ends) or None,
                pad_token_id=pad_id(self._tokenizer, self._ends),
                stopping_criteria=StoppingCriteriaList([watch] if watch else []),
            )
        return sequences

    def _keep_prefix(self) -> None:
        """Computes keys and values of what the samples begin with."""
        prompts = [self.encode(chat)[:-1] for chat in self._samples]
        prefix = _common(prompts) if prompts else []
        if prefix == self._prefix:
            return
        self._prefix, self._kept = prefix, None
        cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        # Layers with a sliding window count padding as part of it, and recurrent ones cannot be cut back.
        if prefix and all(type(layer) is DynamicLayer for layer in cache.layers):
            self._greedy([prefix], [[1] * len(prefix)], cache, 1)  # the new token itself is not computed any more
            self._kept = cache

    def _shared(self, prompts: list[list[int]]) -> int:
        """How many tokens of the kept beginning all prompts share; at least one of each is left to compute."""
        if self._kept is None:
            return 0
        beginnings = [prompt[:-1] for prompt in prompts]
        shared = len(_common([self._prefix, *beginnings]))
        if 2 * shared < len(self._prefix):  # the template writes something new, such as another date
            self._keep_prefix()
            shared = len(_common([self._prefix, *beginnings]))
        return shared if self._kept is not None else 0

    def _copies(self, shared: int, rows: int) -> DynamicCache | None:
        """The first `shared` tokens of the kept cache, once for each row."""
        if self._kept is None or not shared:
            return None
        cache = copy.deepcopy(self._kept)
        if shared < len(self._prefix):
            cache.crop(shared - len(self._prefix))
        cache.batch_repeat_interleave(rows)
        return cache


class _Row:
    """A request with its prompt, and the one line that it gets of what is written: without thoughts, streamed."""

    def __init__(self, request: Request, prompt: list[int]) -> None:
        self.prompt = prompt
        self._request = request
        self._visible = VisibleText()
        self._sent = 0  # characters of it that were handed on

    def restart(self) -> None:
        """Begins anew, after a batch that failed; what was handed on is not handed on again."""
        self._visible = VisibleText()

    def add(self, piece: str) -> None:
        """Takes the next piece of the text, and hands on what is new in the line."""
        self._visible.feed(piece)
        self._hand_on()

    def over(self) -> bool:
        """Whether nothing more needs to be written."""
        return self._visible.complete or self._request.should_stop()

    def generation(self, written: Generated) -> Generation:
        """The answer, when the row has been written; hands on what was held back."""
        self._visible.end()
        self._hand_on()
        return Generation(self._visible.text, written.tokens, finished=written.finished or self._visible.complete)

    def _hand_on(self) -> None:
        text = self._visible.text
        if len(text) > self._sent:
            piece, self._sent = text[self._sent :], len(text)
            self._request.on_text(piece)


def _problem(error: Exception) -> WarmerError:
    """The error of one row."""
    if isinstance(error, WarmerError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceExhausted(
            "the GPU's memory does not hold this prompt and its answer",
            reason="OUT_OF_MEMORY",
            hint="lower WARMER_REWRITER_BATCH, or choose a smaller precision (WARMER_PRESET=int8 or int4)",
        )
    return Internal("the language model failed", reason="MODEL_FAILED")


def _common(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all prompts begin with."""
    length = 0
    for column in zip(*prompts, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return prompts[0][:length]


def _check_kind(checkpoint: Checkpoint, precision: str) -> None:
    """Raises FailedPrecondition (WRONG_ARCHITECTURE or NO_QUANTISATION)."""
    with checkpoints.loading(checkpoint):
        config = AutoConfig.from_pretrained(**checkpoint.arguments)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise FailedPrecondition(
            f"{checkpoint.place} is a {config.model_type} checkpoint, which is no language model",
            reason="WRONG_ARCHITECTURE",
            hint="WARMER_REWRITER_MODEL must name a chat model, such as Llama-3.1-8B-Instruct",
        )
    if checkpoint.gguf_file and precision in checkpoints.QUANTISED:
        raise FailedPrecondition(
            f"{checkpoint.gguf_file} is quantised already and cannot be quantised again in {precision}",
            reason="NO_QUANTISATION",
            hint="load the GGUF file in fp16, bf16 or fp32, or take the checkpoint that it was made of",
        )
