"""Rewrites from an OpenAI-compatible server: `transformers serve` with SmolLM2, and a stub that can fail."""

import threading
import time

import pytest
from openai_server import Failure, Stub

from services.common.checkpoints import find
from services.common.settings import load_settings
from services.rewriter.models import Generation, Request, load_language_model
from services.rewriter.models.chat import ChatModel
from services.rewriter.models.openai import OpenAIModel
from warmer.errors import FailedPrecondition, InvalidArgument

SYSTEM = {"role": "system", "content": "You merge two descriptions of a photo into one. Answer with one line."}


def settings_for(url, **changes):
    return load_settings(**{"profile": "serve", "rewriter_openai_url": url, "openai_retries": 0, **changes})


def asked(text):
    return {"role": "user", "content": text}


def echo(body):
    """Says back, word by word, what it was asked last."""
    words = body["messages"][-1]["content"].split(" ")
    return [words[0], *(f" {word}" for word in words[1:])][: body["max_tokens"]]


@pytest.fixture
def stub():
    with Stub(echo) as made:
        yield made


@pytest.fixture
def model(stub):
    made = OpenAIModel.load(settings_for(stub.url))
    yield made
    made.close()


def test_it_is_known_by_the_name_as_served(stub):
    stub.max_model_len = 8192
    model = OpenAIModel.load(settings_for(stub.url))
    assert (model.id, model.backend, model.max_tokens) == ("openai:tiny", "openai", 8192)
    model.close()


def test_a_batch_is_answered_in_order_and_streamed(stub, model):
    pieces = [[], [], []]
    together = threading.Barrier(3)

    def chat(body):
        together.wait(10)
        return echo(body)

    stub.chat = chat
    requests = [Request([SYSTEM, asked(f"a dog on {i}")], pieces[i].append) for i in range(3)]
    assert model.generate(requests, max_new_tokens=40) == [Generation(f"a dog on {i}", 4, True) for i in range(3)]
    assert pieces == [["a", " dog", " on", f" {i}"] for i in range(3)]
    assert stub.requests[0]["messages"][0] == SYSTEM


def test_the_limit_cuts_an_answer(model):
    assert model.generate([Request([asked("a b c d")])], max_new_tokens=2) == [Generation("a b", 2, finished=False)]


def test_one_chat_fails_alone(stub, model):
    message = '{"error": {"message": "This model\'s maximum context length is 9 tokens."}}'
    stub.chat = lambda body: Failure(400, message) if body["messages"][-1]["content"] == "long" else echo(body)
    first, second, third = model.generate([Request([asked(t)]) for t in ("a", "long", "b")], max_new_tokens=9)
    assert (first.text, third.text) == ("a", "b")
    assert (type(second), second.reason) == (InvalidArgument, "PROMPT_TOO_LONG")


def test_a_caller_who_goes_away_closes_the_stream(stub, model):
    def chat(_body):
        while not stub.over.is_set():
            yield "on and "
            time.sleep(0.02)

    stub.chat = chat
    gone = threading.Event()
    (written,) = model.generate([Request([asked("a")], lambda _: gone.set(), gone.is_set)], max_new_tokens=9)
    assert written.text.startswith("on and") and not written.finished
    assert stub.left.wait(5)


def test_an_answer_cannot_be_begun_for_the_model(stub, model):
    begun = [asked("a dog"), {"role": "assistant", "content": "a"}]
    error, fine = model.generate([Request(begun), Request([asked("b")])], max_new_tokens=9)
    assert (type(error), error.reason) == (FailedPrecondition, "BAD_PROMPT")
    assert fine.text == "b" and len(stub.requests) == 1
    with pytest.raises(FailedPrecondition) as caught:
        model.warm([begun, begun])
    assert caught.value.reason == "BAD_PROMPT"


def test_warming_asks_for_a_word(stub, model):
    model.warm([[SYSTEM, asked("a")], [SYSTEM, asked("b")]])
    assert [body["messages"][0] for body in stub.requests] == [SYSTEM, SYSTEM]


def test_warming_tells_what_is_wrong(stub, model):
    stub.chat = lambda _body: Failure(401, '{"error": {"message": "no"}}')
    with pytest.raises(FailedPrecondition) as caught:
        model.warm([[SYSTEM, asked("a")]])
    assert caught.value.reason == "MODEL_SERVER_REFUSED"
    stub.chat = lambda _body: Failure(400, '{"error": {"message": "never"}}')
    with pytest.raises(InvalidArgument) as rejected:
        model.warm([[SYSTEM, asked("a")]])
    assert rejected.value.reason == "MODEL_SERVER_REJECTED"


def test_a_model_without_system_messages_gets_the_instruction_in_the_question(stub, model):
    stub.chat = lambda body: (
        Failure(400, '{"error": {"message": "System role not supported"}}')
        if body["messages"][0]["role"] == "system"
        else ["fine"]
    )
    model.warm([[SYSTEM, asked("a")], [SYSTEM, asked("b")]])
    chat = [SYSTEM, asked("one"), {"role": "assistant", "content": "two"}, asked("three")]
    assert model.generate([Request(chat)], max_new_tokens=9) == [Generation("fine", 1, finished=True)]
    assert stub.requests[-1]["messages"] == [asked(f"{SYSTEM['content']}\n\none"), *chat[2:]]


def test_settings_choose_the_backend(stub):
    model = load_language_model(settings_for(stub.url))
    assert isinstance(model, OpenAIModel)
    model.close()


# A real server


def test_a_real_server_writes_what_the_same_checkpoint_writes_here(transformers_url, smollm2_folder):
    settings = settings_for(transformers_url, rewriter_model="warmer/smollm2", openai_timeout_s=120)
    there = load_language_model(settings)
    here = ChatModel.load(find(str(smollm2_folder), settings, "WARMER_REWRITER_MODEL"), "fp32", settings)
    chats = [[SYSTEM, asked("a dog on grass; the dog is black")], [asked("Name three colours, one on each line.")]]
    there.warm(chats)
    pieces = [[] for _ in chats]
    requests = [Request(chat, texts.append) for chat, texts in zip(chats, pieces, strict=True)]
    wrote = there.generate(requests, max_new_tokens=12)
    # One is enough, and alone: float32 is slow on a CPU, in batches even more.
    assert here.generate([Request(chats[0])], max_new_tokens=12)[0].text == wrote[0].text
    assert ["".join(texts) for texts in pieces] == [written.text for written in wrote]
    assert all(written.text and written.finished for written in wrote)
    assert len(pieces[0]) > 3
    there.close()


def test_a_real_server_without_the_model(transformers_url):
    with pytest.raises(FailedPrecondition) as caught:
        load_language_model(settings_for(transformers_url, rewriter_model="warmer/other"))
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert "warmer/smollm2" in str(caught.value)


def test_a_real_server_whose_caller_goes_away(transformers_url):
    model = load_language_model(settings_for(transformers_url, rewriter_model="warmer/smollm2", openai_timeout_s=120))
    gone = threading.Event()
    chat = [asked("Write a very long story about a dog, in one paragraph.")]
    begin = time.monotonic()
    (written,) = model.generate([Request(chat, lambda _: gone.set(), gone.is_set)], max_new_tokens=400)
    assert written.text and not written.finished
    (after,) = model.generate([Request([asked("Say yes.")])], max_new_tokens=3)
    assert after.text
    assert time.monotonic() - begin < 20  # 400 tokens would take longer
    model.close()
