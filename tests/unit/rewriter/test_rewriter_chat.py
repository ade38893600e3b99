"""Generating with a tiny random Llama 3.1: batches, the kept beginning, streaming, stopping, errors of one row."""

import pytest
import torch
from chat_kit import SYSTEM, TEXTS, ask, chat, load
from tiny import llama
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen3Config,
)

from services.rewriter.models import Generation, Request
from warmer.errors import FailedPrecondition, Internal, ResourceExhausted


@pytest.fixture
def model(llama_folder):
    return load(llama_folder)


@pytest.fixture
def warm(model):
    model.warm([chat("a dog"), chat("two men")])
    return model


def plain_greedy(folder, chat_, most):
    """What transformers alone writes, without our batches, cache and streaming."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder).float()
    text = tokenizer.apply_chat_template(chat_, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024")
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def lengths_read(model):
    """A list that fills with the (rows, tokens) of everything that the model reads."""
    shapes = []
    read = lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape))  # noqa: E731
    model._model.register_forward_pre_hook(read, with_kwargs=True)
    return shapes


def test_the_prompt_is_rendered_and_tokenised_once(model):
    tokens = model.encode(chat("hello you"))
    names = model._tokenizer.convert_ids_to_tokens(tokens)
    assert names[0] == llama.BEGIN
    assert names.count(llama.BEGIN) == 1  # the tokenizer would add one to a plain text
    assert model._tokenizer("hello")["input_ids"][0] == tokens[0]
    assert names.count("<|start_header_id|>") == 3  # instruction, question, and the answer's beginning
    opened = model.encode([*chat("hello you"), {"role": "assistant", "content": "well"}])
    assert opened[: len(tokens)] == tokens
    assert model._tokenizer.decode(opened[len(tokens) :]) == "well"  # the answer is not ended


def test_only_new_text_is_returned_and_the_pieces_add_up(warm, llama_folder):
    for text in TEXTS:
        pieces = []
        (answer,) = warm.generate([Request(chat(text), pieces.append)], max_new_tokens=12)
        assert "".join(pieces) == answer.text
        assert len(pieces) > 3
        assert answer.text == plain_greedy(llama_folder, chat(text), 12)


def test_a_batch_writes_what_each_row_writes_alone(warm, llama_folder):
    alone = [ask(warm, text, most=20)[0] for text in TEXTS]
    assert len({answer.text for answer in alone}) == len(TEXTS)
    assert ask(warm, *TEXTS, most=20) == alone
    assert ask(warm, *reversed(TEXTS), most=20) == alone[::-1]
    assert ask(load(llama_folder), *TEXTS, most=20) == alone  # never warmed: nothing is kept


def test_each_row_of_a_batch_streams_its_own_words(warm):
    pieces = [[] for _ in TEXTS]
    requests = [Request(chat(text), pieces[i].append) for i, text in enumerate(TEXTS)]
    answers = warm.generate(requests, max_new_tokens=12)
    assert ["".join(row) for row in pieces] == [answer.text for answer in answers]


def test_what_all_prompts_begin_with_is_read_once(warm, llama_folder):
    prompts = [warm.encode(chat(text)) for text in TEXTS]
    begun = len(warm._prefix)
    assert begun > len(warm.encode([SYSTEM])) // 2
    shapes = lengths_read(warm)
    ask(warm, *TEXTS)
    assert shapes[0] == (len(TEXTS), max(map(len, prompts)) - begun)
    assert set(shapes[1:]) == {(len(TEXTS), 1)}
    # A chat that begins otherwise is answered right, in a batch with others, and leaves the kept beginning whole.
    other = Request(chat("a dog", system=False))
    mixed = warm.generate([Request(chat(TEXTS[0])), other], max_new_tokens=12)
    fresh = load(llama_folder)
    assert mixed == [*ask(fresh, TEXTS[0]), *fresh.generate([other], max_new_tokens=12)]
    del shapes[:]
    assert ask(warm, TEXTS[0]) == [mixed[0]]
    assert shapes[0] == (1, len(prompts[0]) - begun)


def test_a_template_that_changes_its_mind_is_read_anew(warm):
    """As those that write the date into every prompt do at midnight."""
    warm._tokenizer.chat_template = llama.TEMPLATE.replace("Today: ", "It is a new day: ")
    shapes = lengths_read(warm)
    first = ask(warm, TEXTS[0])
    assert shapes[0][1] > 20  # the beginning, again
    del shapes[:]
    assert ask(warm, TEXTS[0]) == first
    assert shapes[0] == (1, len(warm.encode(chat(TEXTS[0]))) - len(warm._prefix))


def test_the_same_date_stands_in_every_prompt(model):
    assert "26 Jul 2024" in model._tokenizer.decode(model.encode(chat("a dog")))


def test_a_row_that_is_stopped_leaves_the_others_whole(warm):
    whole = ask(warm, *TEXTS, most=20)
    seen = []
    requests = [Request(chat(text)) for text in TEXTS]
    requests[1] = Request(chat(TEXTS[1]), seen.append, lambda: len(seen) >= 2)
    answers = warm.generate(requests, max_new_tokens=20)
    assert answers[1] == Generation("".join(seen), answers[1].tokens, finished=False)
    assert answers[1].tokens < whole[1].tokens
    assert whole[1].text.startswith(answers[1].text)
    assert [answers[i] for i in (0, 2, 3, 4)] == [whole[i] for i in (0, 2, 3, 4)]
    assert ask(warm, *TEXTS, most=20) == whole


@pytest.mark.parametrize(
    ("raised", "kind", "reason"),
    [
        (RuntimeError("a secret"), Internal, "MODEL_FAILED"),
        (torch.OutOfMemoryError("no room"), ResourceExhausted, "OUT_OF_MEMORY"),
    ],
)
def test_a_row_that_breaks_the_batch_fails_alone(warm, raised, kind, reason):
    whole = ask(warm, *TEXTS)
    pieces = []

    def broken(_piece):
        raise raised

    requests = [Request(chat(text)) for text in TEXTS]
    requests[0] = Request(chat(TEXTS[0]), pieces.append)
    requests[2] = Request(chat(TEXTS[2]), broken)
    answers = warm.generate(requests, max_new_tokens=12)
    assert (type(answers[2]), answers[2].reason) == (kind, reason)
    assert "secret" not in str(answers[2])
    assert [answers[i] for i in (0, 1, 3, 4)] == [whole[i] for i in (0, 1, 3, 4)]
    assert "".join(pieces) == whole[0].text  # nothing twice, though the batch was begun again


def test_a_prompt_without_room_for_the_answer_fails_alone(tmp_path):
    model = load(llama.build(tmp_path, max_tokens=120))
    long = "a dog " * 60
    short, refused = ask(model, "a dog", long)
    assert short == ask(model, "a dog")[0]
    assert (type(refused), refused.reason) == (FailedPrecondition, "PROMPT_TOO_LONG")
    (alone,) = ask(model, long)
    assert alone.reason == "PROMPT_TOO_LONG"
    assert model.max_tokens == 120
    room = 120 - len(model.encode(chat("a dog")))
    assert ask(model, "a dog", most=room)[0].tokens > 0
    assert ask(model, "a dog", most=room + 1)[0].reason == "PROMPT_TOO_LONG"


def test_thoughts_are_left_out_and_one_line_is_written(tmp_path):
    lessons = [
        (chat(TEXTS[0]), "<think>\na dog, hm\n</think>\n\na black dog runs\nand so on"),
        (chat(TEXTS[2]), "\na man rides <b>a bicycle"),
    ]
    model = load(llama.build(tmp_path, lessons=lessons))
    pieces = [[], []]
    requests = [Request(asked, pieces[i].append) for i, (asked, _) in enumerate(lessons)]
    first, second = model.generate(requests, max_new_tokens=60)
    assert (first.text, first.finished) == ("a black dog runs", True)
    assert (second.text, second.finished) == ("a man rides <b>a bicycle", True)
    assert ["".join(row) for row in pieces] == [first.text, second.text]
    (cut,) = model.generate(requests[:1], max_new_tokens=8)
    assert cut == Generation("", 8, finished=False)  # it was still thinking


def test_a_model_that_its_template_makes_think_has_thought(model):
    begun = "assistant<|end_header_id|>\\n\\n"
    assert begun in llama.TEMPLATE
    model._tokenizer.chat_template = llama.TEMPLATE.replace(begun, f"{begun}<think>\\n")
    text = model._tokenizer.decode(model.encode(chat("a dog")))
    assert text.endswith("assistant<|end_header_id|>\n\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "refuse",
    [
        "{{ raise_exception('no instructions, please') }}",  # as Gemma's
        "{% set messages = messages[1:] %}",  # as some others, without a word
    ],
)
def test_where_there_is_no_place_for_an_instruction_the_question_begins_with_it(tmp_path, refuse):
    template = "{% if messages[0]['role'] == 'system' %}" + refuse + "{% endif %}" + llama.TEMPLATE
    model = load(llama.build(tmp_path, chat_template=template))
    text = model._tokenizer.decode(model.encode(chat("a dog")))
    assert f"user<|end_header_id|>\n\n{SYSTEM['content']}\n\na dog<|eot_id|>" in text
    assert text.count("merge descriptions") == 1
    assert isinstance(ask(model, "a dog")[0], Generation)


def test_models_whose_layers_forget_the_beginning_read_it_each_time(tmp_path):
    """Sliding windows (Mistral, Gemma) and thoughts (Qwen): the same answers, in batches and alone."""
    words = llama.tokenizer()
    sizes = {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.3,
        "eos_token_id": words.eos_token_id,
    }
    for kind, keeps in (
        (MistralConfig(**sizes, sliding_window=64), False),
        (Gemma3TextConfig(**sizes, sliding_window=64, layer_types=["sliding_attention", "full_attention"]), False),
        (Qwen3Config(**sizes), True),
    ):
        torch.manual_seed(0)
        folder = tmp_path / kind.model_type
        AutoModelForCausalLM.from_config(kind).save_pretrained(folder)
        words.save_pretrained(folder)
        model = load(folder)
        model.warm([chat("a dog"), chat("two men")])
        assert (model._kept is not None) == keeps
        alone = [ask(model, text)[0] for text in TEXTS[:3]]
        assert ask(model, *TEXTS[:3]) == alone, kind.model_type
