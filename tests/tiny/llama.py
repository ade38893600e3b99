"""A random Llama 3.1 checkpoint, in the files and with the parts of the real one, and the same as a GGUF file.

As `Llama-3.1-8B-Instruct`: rotary positions scaled by wavelength, fewer heads for keys than for queries, weights in
several safetensors files with an index, a byte-level tokenizer that adds `<|begin_of_text|>` to a plain text, a chat
template that writes it too, three tokens that end an answer, and generation settings that ask for sampling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .words import SENTENCES, learn

BEGIN, END, TURN, MESSAGE = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"
MARKS = (BEGIN, END, "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", MESSAGE, TURN)
ENDS = (END, MESSAGE, TURN)

# The date stands in every prompt, and is today's unless one is given.
TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
  {%- set instruction = messages[0]['content'] | trim %}
  {%- set messages = messages[1:] %}
{%- else %}
  {%- set instruction = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Today: ' + date_string + '\\n\\n' + instruction + '<|eot_id|>' }}
{%- for message in messages %}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # 8192 in the real one; so short that the scaling tells in a short test
}

Lesson = tuple[Sequence[Mapping[str, str]], str]
"""A chat, and what to answer."""


def build(
    folder: Path,
    *,
    chat_template: str | None = TEMPLATE,
    max_tokens: int = 4096,
    lessons: Sequence[Lesson] = (),
) -> Path:
    """Writes the checkpoint into `folder` and returns it.

    `max_tokens` is its longest text, prompt and answer together; `chat_template` None writes none. What it answers is
    random words; with `lessons` it is taught these answers by heart, which takes a second.
    """
    torch.manual_seed(0)
    words = tokenizer(chat_template)
    model = LlamaForCausalLM(_config(words, max_tokens))
    model.generation_config = _generation_config(words)
    if lessons:
        model.generation_config.suppress_tokens = None
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for something so small more are slower, much slower beside other programs
        _teach(model, words, lessons)
        torch.set_num_threads(threads)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="200KB")
    words.save_pretrained(folder)
    _write_as_the_hub_does(folder / "config.json")
    return folder


def build_gguf(file: Path, *, max_tokens: int = 4096) -> Path:
    """Writes the weights of `build`, its tokenizer and its template as one GGUF file, not quantised; returns it."""
    torch.manual_seed(0)
    words = tokenizer(TEMPLATE)
    model = LlamaForCausalLM(_config(words, max_tokens)).to(torch.bfloat16).float()
    writer = gguf.GGUFWriter(file, "llama")
    _write_settings(writer, model.config)
    _write_vocabulary(writer, words)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        values = _interleaved(tensor.numpy(), next((n for part, n in heads.items() if part in name), 0))
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    # llama.cpp keeps the scaling as what each frequency is divided by.
    plain, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, torch.device("cpu"))
    width = model.config.head_dim
    unscaled = 1.0 / _ROPE["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    writer.add_tensor("rope_freqs.weight", (unscaled / plain).numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def tokenizer(chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few hundred pieces; `<|begin_of_text|>` comes first unless one asks for none."""
    blank = Tokenizer(BPE())
    blank.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    vocabulary, merges = learn(BPE(), blank, trainer, [f"{text}\n" for text in SENTENCES])
    made = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer, made.decoder = blank.pre_tokenizer, decoders.ByteLevel()
    made.add_special_tokens(list(MARKS))
    begin = made.token_to_id(BEGIN)
    made.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BEGIN, eos_token=TURN)
    fast.chat_template = chat_template
    return fast


def _config(words: PreTrainedTokenizerFast, max_tokens: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_tokens,
        rope_parameters=dict(_ROPE),
        initializer_range=0.3,  # widely, so that the prompt decides the words and no two are nearly as likely
        bos_token_id=words.convert_tokens_to_ids(BEGIN),
        eos_token_id=[words.convert_tokens_to_ids(end) for end in ENDS],
        tie_word_embeddings=False,
    )


def _generation_config(words: PreTrainedTokenizerFast) -> GenerationConfig:
    """As the real one samples; and random weights shall write words, neither marks nor loose bytes."""
    spoken = {i for token, i in words.get_vocab().items() if re.fullmatch("\u0120?[A-Za-z]+", token)}
    allowed = {*spoken, words.convert_tokens_to_ids(TURN)}
    return GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        bos_token_id=words.convert_tokens_to_ids(BEGIN),
        eos_token_id=[words.convert_tokens_to_ids(end) for end in ENDS],
        suppress_tokens=[i for i in range(len(words)) if i not in allowed],
        begin_suppress_tokens=[words.convert_tokens_to_ids(TURN)],
    )


def _teach(model: LlamaForCausalLM, words: PreTrainedTokenizerFast, lessons: Sequence[Lesson]) -> None:
    """Trains until every next word of every answer is the likeliest by far, in bfloat16 too."""
    pairs = []
    for chat, answer in lessons:
        asked = words.apply_chat_template(
            list(chat), tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
        )
        prompt = words(asked, add_special_tokens=False)["input_ids"]
        pairs.append((prompt, words(answer + TURN, add_special_tokens=False)["input_ids"]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        losses = []
        for prompt, answer in pairs:
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))
        loss = torch.stack(losses).mean()
        if loss < 0.01:
            return
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise RuntimeError(f"the tiny model has not learned its lessons (loss {loss:.3f})")


def _write_as_the_hub_does(file: Path) -> None:
    """Older versions of transformers wrote the checkpoints of the hub, with other names for some settings."""
    config = json.loads(file.read_text())
    config["rope_scaling"] = config.pop("rope_parameters")
    config["rope_theta"] = config["rope_scaling"].pop("rope_theta")
    config["torch_dtype"] = config.pop("dtype")
    file.write_text(json.dumps(config, indent=2))


def _write_settings(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_name("tiny llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_ROPE["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _write_vocabulary(writer: gguf.GGUFWriter, words: PreTrainedTokenizerFast) -> None:
    model = json.loads(words.backend_tokenizer.to_str())["model"]
    tokens = sorted(words.get_vocab(), key=words.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[token in MARKS] for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(words.convert_tokens_to_ids(BEGIN))
    writer.add_eos_token_id(words.convert_tokens_to_ids(END))  # some files name this one, though turns end otherwise
    writer.add_chat_template(TEMPLATE)


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """The order in which llama.cpp rotates the two halves of a head; other tensors (no `heads`) stay as they are."""
    if not heads:
        return values
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
