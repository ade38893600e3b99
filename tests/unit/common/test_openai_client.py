"""The client for OpenAI-compatible servers: what it sends, how it streams, and what each failure becomes."""

import asyncio
import base64
import json
import socket
import sys
import threading
import time
from email.utils import formatdate

import pytest
from openai_server import Cut, Failure, Stub, free_port

from services.common import openai_setup
from services.common.openai_client import Answer, ModelServer, Question
from services.common.openai_errors import retry_after_s
from services.common.settings import load_settings
from services.common.visible import VisibleText
from warmer.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WarmerError,
)

KEY = "sk-very-secret-0123456789"


def settings_for(url, **changes):
    changes = {"openai_retries": 0, "rewriter_model": "tiny", **changes}
    return load_settings(rewriter_openai_url=url, **changes)


def connect(url, **changes):
    return ModelServer.connect(settings_for(url, **changes), "rewriter")


def question(text="hello", on_text=lambda _: None, should_stop=lambda: False):
    return Question([{"role": "user", "content": text}], on_text, should_stop)


def ask(server, *questions, max_new_tokens=40):
    return server.ask(questions or [question()], max_new_tokens=max_new_tokens)


@pytest.fixture
def stub():
    with Stub(lambda body: ["a ", "dog", " runs"]) as made:
        yield made


@pytest.fixture
def server(stub):
    made = connect(stub.url)
    yield made
    made.close()


# What is sent, and what comes back


def test_an_answer_is_streamed_and_counted(stub, server):
    pieces = []
    assert ask(server, question("what is it?", pieces.append)) == [Answer("a dog runs", 3, finished=True)]
    assert pieces == ["a ", "dog", " runs"]
    (sent,) = stub.requests
    assert sent["messages"] == [{"role": "user", "content": "what is it?"}]
    assert (sent["model"], sent["temperature"], sent["max_tokens"], sent["stream"]) == ("tiny", 0, 40, True)


def test_an_answer_that_the_limit_cut_is_not_finished(server):
    assert ask(server, max_new_tokens=3) == [Answer("a dog runs", 3, finished=False)]


def test_answers_keep_their_order_and_come_at_once(stub, server):
    together = threading.Barrier(8)

    def chat(body):
        together.wait(10)  # nobody is answered before all have asked
        return [body["messages"][0]["content"]]

    stub.chat = chat
    answers = ask(server, *(question(f"number {i}") for i in range(8)))
    assert [answer.text for answer in answers] == [f"number {i}" for i in range(8)]


def test_no_more_calls_at_once_than_allowed(stub):
    def chat(_body):
        time.sleep(0.05)
        return ["yes"]

    stub.chat = chat
    server = connect(stub.url, openai_concurrency=3)
    assert len(ask(server, *(question() for _ in range(9)))) == 9
    assert stub.most_running == 3
    server.close()


def test_text_comes_on_the_thread_that_asks(server):
    threads = []
    ask(server, question(on_text=lambda _: threads.append(threading.get_ident())))
    assert set(threads) == {threading.get_ident()}


def test_connections_are_used_again(stub, server):
    for _ in range(5):
        ask(server)
    assert len(stub.sockets) == 1


def test_connections_that_the_server_closed_meanwhile_are_not_used_again(stub, server):
    ask(server)
    stub.drop()
    time.sleep(0.05)
    assert ask(server)[0].text == "a dog runs"
    assert len(stub.sockets) == 2


def test_batches_may_come_from_other_threads(server):
    results = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: results.append(ask(server)))
        thread.start()
        thread.join()
    assert [answer.text for (answer,) in results] == ["a dog runs"] * 2


def test_the_first_line_is_enough(stub, server):
    def chat(_body):
        yield "\n a dog"
        yield " runs\nand"
        while not stub.over.is_set():  # it would go on for ever
            yield " on"
            time.sleep(0.01)

    stub.chat = chat
    pieces = []
    assert ask(server, question(on_text=pieces.append)) == [Answer(" a dog runs", 2, finished=True)]
    assert "".join(pieces) == " a dog runs"
    assert stub.left.wait(5)


def test_thinking_is_not_part_of_the_answer(stub, server):
    stub.chat = lambda _body: ["<thi", "nk>a cat?\nno, ", "a dog</th", "ink>\n\na ", "dog"]
    pieces = []
    (answer,) = ask(server, question(on_text=pieces.append))
    assert (answer.text, pieces) == ("a dog", ["a ", "dog"])


def test_thinking_that_the_server_separates_is_not_part_of_the_answer(stub, server):
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"reasoning_content": "a cat?"}}]}
    stub.chat = lambda _body: [chunk, "a dog"]
    assert ask(server)[0].text == "a dog"


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["<", "b>bold"], "<b>bold"),
        (["<thi"], "<thi"),
        (["<"], "<"),
        (["<think>never", " ended"], ""),
        (["\n", "  \n", "one\rtwo"], "one"),
        (["[THINK]so[/THINK]", "yes"], "yes"),
        (["a <think> b"], "a <think> b"),
        ([" "], ""),
    ],
)
def test_visible_text(pieces, text):
    visible = VisibleText()
    shown = "".join([*map(visible.feed, pieces), visible.end()])
    assert (shown, visible.text) == (text, text)


def test_a_caller_who_goes_away_closes_the_stream(stub, server):
    def chat(body):
        yield "a"
        for _ in range(3 if body["messages"][0]["content"] == "short" else 1000):
            yield " b"
            time.sleep(0.02)

    stub.chat = chat
    gone = threading.Event()
    begin = time.monotonic()
    stopped, whole = ask(
        server, question("long", on_text=lambda _: gone.set(), should_stop=gone.is_set), question("short")
    )
    assert stopped.text.startswith("a") and not stopped.finished
    assert whole == Answer("a b b b", 4, finished=True)
    assert stub.left.wait(5)
    assert time.monotonic() - begin < 5


def test_a_caller_who_goes_away_before_the_first_word_waits_for_nothing(stub, server):
    stub.chat = lambda _body: stub.over.wait(20) or []
    begin = time.monotonic()
    assert ask(server, question(should_stop=lambda: time.monotonic() > begin + 0.2)) == [Answer("", 0, finished=False)]
    assert time.monotonic() - begin < 3


# Which model


def test_the_only_model_needs_no_name(stub):
    stub.max_model_len = 4096
    server = connect(stub.url, rewriter_model="")
    assert (server.model, server.max_tokens) == ("tiny", 4096)
    server.close()


def test_a_choice_of_models_needs_a_name(stub):
    stub.models = ("llama", "llava")
    error = refused(stub.url, rewriter_model="")
    assert (type(error), error.reason) == (FailedPrecondition, "MODEL_NOT_SET")
    assert "llama, llava" in str(error) and "WARMER_REWRITER_MODEL" in str(error)


def test_a_model_that_is_not_served(stub):
    stub.models = [f"model-{i}" for i in range(12)]
    error = refused(stub.url)
    assert (type(error), error.reason) == (FailedPrecondition, "MODEL_NOT_FOUND")
    assert "'tiny'" in str(error) and "model-9 and 2 more" in str(error)


def test_a_server_that_lists_nothing_is_believed(stub):
    stub.models = ()
    server = connect(stub.url)
    assert ask(server)[0].text == "a dog runs"
    server.close()
    assert refused(stub.url, rewriter_model="").reason == "MODEL_NOT_SET"


def test_a_model_that_is_taken_away(stub, server):
    stub.models = ("other",)
    stub.chat = lambda _body: Failure(404, '{"error": {"message": "The model `tiny` does not exist.", "code": 404}}')
    (error,) = ask(server)
    assert (type(error), error.reason) == (FailedPrecondition, "MODEL_NOT_FOUND")
    assert "it serves other" in str(error)


# Settings


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "MODEL_SERVER_NOT_SET"),
        ("vllm:8000/v1", "BAD_SETTING"),
        ("http://", "BAD_SETTING"),
        ("http://vllm:port/v1", "BAD_SETTING"),
        ("http://[::1/v1", "BAD_SETTING"),
    ],
)
def test_a_url_that_cannot_be(url, reason):
    error = refused(url)
    assert (type(error), error.reason) == (FailedPrecondition, reason)
    assert "WARMER_REWRITER_OPENAI_URL" in str(error)


def test_the_package_is_missing(stub, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    error = refused(stub.url)
    assert (error.reason, error.hint) == ("PACKAGE_NOT_INSTALLED", "pip install 'warmer[serve]'")


def test_the_key_is_sent_without_its_line_break(stub):
    connect(stub.url, openai_api_key=f"{KEY}\n").close()
    assert stub.authorizations == [f"Bearer {KEY}"]


def test_a_key_that_no_header_can_carry(stub):
    error = refused(stub.url, openai_api_key=f"{KEY}ä")
    assert error.reason == "BAD_SETTING" and KEY not in str(error)


def test_the_environment_s_key_for_another_server_is_not_sent(stub, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = connect(stub.url)
    ask(server)
    assert not any(KEY in (sent or "") for sent in stub.authorizations)
    server.close()


def test_a_server_that_repeats_the_key_does_not_make_it_known(stub, capfd):
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}})
    stub.models = Failure(401, body)
    error = refused(stub.url, openai_api_key=KEY)
    assert error.reason == "MODEL_SERVER_REFUSED" and "Incorrect API key provided: ***." in error.message
    stub.models = ("tiny",)
    server = connect(stub.url, openai_api_key=KEY)
    stub.chat = lambda _body: Failure(500, body)
    (failure,) = ask(server)
    said = [str(error), repr(error), str(failure), repr(server), repr(server._errors), *capfd.readouterr()]
    assert not any(KEY in text for text in said)
    server.close()


def test_a_password_in_the_url_is_sent_and_not_shown(stub, capfd):
    server = connect(stub.url.replace("//", "//user:pass-word@"))
    assert stub.authorizations == ["Basic " + base64.b64encode(b"user:pass-word").decode()]
    stub.chat = lambda _body: Failure(500)
    (error,) = ask(server)
    assert stub.url in str(error)
    assert not any("pass-word" in text for text in (str(error), *capfd.readouterr()))
    server.close()


# Failures


def refused(url, **changes):
    with pytest.raises(WarmerError) as caught:
        connect(url, **changes)
    return caught.value


FAILURES = [
    (Failure(401, '{"error": {"message": "no such key"}}'), FailedPrecondition, "MODEL_SERVER_REFUSED", "no such key"),
    (Failure(403, "Forbidden"), FailedPrecondition, "MODEL_SERVER_REFUSED", "WARMER_OPENAI_API_KEY"),
    (Failure(429, "{}", {"Retry-After": "7"}), ResourceExhausted, "MODEL_SERVER_BUSY", "later"),
    (Failure(500, "Internal Server Error"), Unavailable, "MODEL_SERVER_FAILED", "Internal Server Error"),
    (Failure(503, ""), Unavailable, "MODEL_SERVER_FAILED", "503"),
    (Failure(504, ""), DeadlineExceeded, "MODEL_SERVER_TIMEOUT", ""),
    (Failure(302, ""), FailedPrecondition, "MODEL_SERVER_BAD_ANSWER", "302"),
]
REJECTED = [
    # As vLLM, SGLang, llama.cpp, OpenAI and transformers say it.
    (
        '{"object": "error", "message": "This model\'s maximum context length is 4096 tokens. However, you requested '
        '5000.", "type": "BadRequestError", "param": null, "code": 400}',
        "PROMPT_TOO_LONG",
    ),
    (
        '{"error": {"message": "The input (61709 tokens) is longer than the model\'s context length (40960 tokens).", '
        '"code": 400}}',
        "PROMPT_TOO_LONG",
    ),
    ('{"error": {"message": "the request exceeds the available context size"}}', "PROMPT_TOO_LONG"),
    ('{"error": {"message": "max_tokens must be at least 1, got -186."}}', "PROMPT_TOO_LONG"),
    ("{\"detail\": \"Server is pinned to 'a'; requested 'b'.\"}", "MODEL_SERVER_REJECTED"),
    ('{"error": "image input is not supported"}', "MODEL_SERVER_REJECTED"),
    ("<html>413</html>", "MODEL_SERVER_REJECTED"),
]


@pytest.mark.parametrize(("failure", "kind", "reason", "word"), FAILURES)
def test_what_a_status_becomes(stub, server, failure, kind, reason, word):
    stub.chat = lambda _body: failure
    (error,) = ask(server)
    assert (type(error), error.reason) == (kind, reason)
    assert word in str(error) and stub.url in str(error)


@pytest.mark.parametrize(("failure", "kind", "reason", "word"), FAILURES)
def test_what_a_status_becomes_at_the_start(stub, failure, kind, reason, word):
    stub.models = failure
    error = refused(stub.url)
    assert (type(error), error.reason) == (kind, reason)
    assert word in str(error) and stub.url in str(error)


@pytest.mark.parametrize(("body", "reason"), REJECTED)
def test_what_a_rejection_becomes(stub, server, body, reason):
    stub.chat = lambda _body: Failure(400, body)
    (error,) = ask(server)
    assert (type(error), error.reason) == (InvalidArgument, reason)


def test_how_long_to_wait_is_passed_on(stub, server):
    stub.chat = lambda _body: Failure(429, "{}", {"Retry-After": "7"})
    assert ask(server)[0].retry_after_s == 7.0


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("0.5", 0.5), ("-3", 0), ("1e99", 3600)])
def test_retry_after(value, seconds):
    assert retry_after_s({"retry-after": value}) == seconds


def test_retry_after_a_date():
    assert 20 <= retry_after_s({"retry-after": formatdate(time.time() + 30, usegmt=True)}) <= 30


@pytest.mark.parametrize("value", ["", "soon", "nan"])
def test_retry_after_that_says_nothing(value):
    assert retry_after_s({"retry-after": value} if value else {}) is None


def test_nobody_listens():
    port = free_port()
    error = refused(f"http://127.0.0.1:{port}/v1")
    assert (type(error), error.reason) == (Unavailable, "MODEL_SERVER_UNREACHABLE")
    assert f"http://127.0.0.1:{port}/v1" in str(error) and "WARMER_REWRITER_OPENAI_URL" in str(error)


def test_nobody_takes_the_connection(monkeypatch):
    monkeypatch.setattr(openai_setup, "_CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        error = refused(f"http://127.0.0.1:{full.getsockname()[1]}/v1")
        for one in waiting:
            one.close()
    assert (type(error), error.reason) == (Unavailable, "MODEL_SERVER_UNREACHABLE")


def test_no_such_host():
    error = refused("http://no-such-host.invalid/v1")
    assert (type(error), error.reason) == (Unavailable, "MODEL_SERVER_UNREACHABLE")
    assert "no-such-host.invalid" in str(error)


def test_the_server_goes_away(stub, server):
    ask(server)
    stub.__exit__()
    (error,) = ask(server)
    assert (type(error), error.reason) == (Unavailable, "MODEL_SERVER_UNREACHABLE")


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (Failure(404, '{"detail": "Not Found"}'), "Not Found"),
        (Failure(200, "<html>hello</html>", {"Content-Type": "text/html"}), ""),
        (Failure(200, "{}"), ""),
        (Failure(200, "{"), ""),
        (Failure(200, "[1]"), ""),
    ],
)
def test_another_kind_of_server(stub, failure, word):
    stub.models = failure
    error = refused(stub.url)
    assert (type(error), error.reason) == (FailedPrecondition, "MODEL_SERVER_BAD_ANSWER")
    assert word in str(error) and "/v1" in error.hint


@pytest.mark.parametrize(
    "piece",
    [b"data: {nope\n\n", b"data: [1, 2]\n\n", b"data: \xff\xfe\n\n", b'data: {"choices": [7]}\n\n', b"\0\1\2\3"],
)
def test_an_answer_that_cannot_be_read(stub, server, piece):
    stub.chat = lambda _body: iter([piece, Cut()] if piece.startswith(b"\0") else [piece])
    (error,) = ask(server)
    assert isinstance(error, (FailedPrecondition, Unavailable))
    assert error.reason in ("MODEL_SERVER_BAD_ANSWER", "MODEL_SERVER_UNREACHABLE")


def test_an_answer_that_is_a_page(stub, server):
    stub.chat = lambda _body: Failure(200, "<html>hello</html>", {"Content-Type": "text/html"})
    assert ask(server)[0].reason == "MODEL_SERVER_BAD_ANSWER"


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ('{"error": "CUDA out of memory"}', Unavailable, "MODEL_SERVER_FAILED"),
        ('{"error": {"message": "maximum context length is 9", "code": 400}}', InvalidArgument, "PROMPT_TOO_LONG"),
    ],
)
def test_a_stream_that_ends_in_an_error(stub, server, body, kind, reason):
    stub.chat = lambda _body: iter(["a ", f"data: {body}\n\n".encode()])
    (error,) = ask(server)
    assert (type(error), error.reason) == (kind, reason)


def test_a_stream_that_breaks_off(stub):
    stub.chat = lambda _body: iter(["a ", Cut()])
    server = connect(stub.url, openai_retries=2)
    (error,) = ask(server)
    assert (type(error), error.reason) == (Unavailable, "MODEL_SERVER_UNREACHABLE")
    assert len(stub.requests) == 1  # the caller has seen text already
    server.close()


def test_one_failure_leaves_the_others_alone(stub, server):
    stub.chat = lambda body: Failure(400, "no") if body["messages"][0]["content"] == "bad" else ["good"]
    first, bad, last = ask(server, question("1"), question("bad"), question("3"))
    assert first.text == last.text == "good"
    assert bad.reason == "MODEL_SERVER_REJECTED"


def test_a_broken_listener_fails_its_own_answer(server):
    def broken(_text):
        raise RuntimeError("a defect of ours")

    bad, good = ask(server, question(on_text=broken), question())
    assert (bad.code.name, bad.reason) == ("INTERNAL", "INTERNAL")
    assert good.text == "a dog runs"


# Time


def test_a_server_that_hangs(stub):
    server = connect(stub.url, openai_timeout_s=0.4, openai_retries=3)
    stub.chat = lambda _body: stub.over.wait(20) or []
    begin = time.monotonic()
    (error,) = ask(server)
    assert (type(error), error.reason) == (DeadlineExceeded, "MODEL_SERVER_TIMEOUT")
    assert "0.4 s" in str(error) and time.monotonic() - begin < 3
    assert len(stub.requests) == 1
    server.close()


def test_a_server_that_trickles(stub):
    server = connect(stub.url, openai_timeout_s=0.5)

    def chat(_body):
        while not stub.over.is_set():
            yield "a "
            time.sleep(0.05)

    stub.chat = chat
    (error,) = ask(server)
    assert error.reason == "MODEL_SERVER_TIMEOUT"
    assert stub.left.wait(5)
    server.close()


def test_a_server_that_hangs_at_the_start(stub):
    listing = threading.Event()

    class Hanging(tuple):
        def __iter__(self):
            listing.set()
            stub.over.wait(20)
            return super().__iter__()

    stub.models = Hanging(("tiny",))
    error = refused(stub.url, openai_timeout_s=0.4)
    assert (type(error), error.reason) == (DeadlineExceeded, "MODEL_SERVER_TIMEOUT")
    assert listing.is_set()


def test_what_passes_is_tried_again(stub):
    failures = iter([Failure(503), Failure(429, "", {"Retry-After": "0"})])
    stub.chat = lambda _body: next(failures, None) or ["a dog"]
    server = connect(stub.url, openai_retries=2)
    assert ask(server)[0].text == "a dog"
    assert len(stub.requests) == 3
    server.close()


def test_what_does_not_pass_is_not_tried_again(stub):
    stub.chat = lambda _body: Failure(400, "no")
    server = connect(stub.url, openai_retries=2)
    ask(server)
    assert len(stub.requests) == 1
    server.close()


def test_a_wait_that_is_too_long_is_the_caller_s(stub):
    stub.chat = lambda _body: Failure(429, "", {"Retry-After": "90"})
    server = connect(stub.url, openai_retries=2, openai_timeout_s=5)
    begin = time.monotonic()
    (error,) = ask(server)
    assert (error.reason, error.retry_after_s) == ("MODEL_SERVER_BUSY", 90.0)
    assert len(stub.requests) == 1 and time.monotonic() - begin < 2
    server.close()


def test_nothing_is_left_running_between_calls(stub, server):
    gone = threading.Event()
    ask(server, question(), question(on_text=lambda _: gone.set(), should_stop=gone.is_set))
    assert not asyncio.all_tasks(server._runner.get_loop())
