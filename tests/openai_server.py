"""Real OpenAI-compatible servers for the tests: `transformers serve`, and a small one that can be told to fail."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_REVISION = "0" * 40


@contextmanager
def transformers_serve(home: Path, models: Mapping[str, Path]) -> Iterator[str]:
    """Runs `transformers serve`; gives its base URL.

    `models` are folders by the names to serve them under (`owner/name`). They are laid into `home` as a hub's cache,
    since those are the models that it lists; it runs offline.
    """
    for name, folder in models.items():
        _lay_out(home / "hub" / f"models--{name.replace('/', '--')}", folder)
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32"], env=os.environ | environment, stdout=log, stderr=log
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", home / "serve.log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lay_out(cache: Path, folder: Path) -> None:
    snapshot = cache / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(_REVISION)
    for file in folder.iterdir():
        (snapshot / file.name).symlink_to(file.resolve())


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while True:
        try:
            opener.open(url, timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"transformers serve does not start:\n{log.read_text()[-3000:]}") from None
        time.sleep(0.1)


@dataclass(frozen=True)
class Failure:
    """An HTTP answer other than the API's."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """Ends a stream without a word: the connection is closed."""


Piece = str | dict[str, Any] | bytes | Cut
Chat = Callable[[dict[str, Any]], Iterable[Piece] | Failure]


class Stub:
    """A small server that speaks OpenAI's API over real HTTP; `models` and `chat` say what it answers.

    `chat` gets the body of a request and gives the pieces of the answer: text, a whole chunk (a dict), raw bytes, or
    Cut. Behind them come an end (`stop`, or `length` when there were as many pieces as tokens asked for) and the usage.
    """

    def __init__(self, chat: Chat, models: Sequence[str] | Failure = ("tiny",), *, max_model_len: int = 0) -> None:
        self.chat = chat
        self.models = models
        self.max_model_len = max_model_len
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.running = 0
        self.most_running = 0
        self.left = threading.Event()  # a client closed its stream before the end
        self.over = threading.Event()  # for answers that hang: set at the end of the test
        self.sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        stub = self

        class Handler(_Handler):
            server_of = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Stub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self.drop()

    def drop(self) -> None:
        """Closes all connections, as a server does with those that were idle for a while."""
        for connection in self.sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def count(self, change: int) -> None:
        with self._lock:
            self.running += change
            self.most_running = max(self.most_running, self.running)


class _Handler(BaseHTTPRequestHandler):
    server_of: Stub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server_of.sockets.append(self.connection)

    def do_GET(self) -> None:
        stub = self.server_of
        stub.authorizations.append(self.headers["Authorization"])
        if isinstance(stub.models, Failure):
            return self._fail(stub.models)
        more = {"max_model_len": stub.max_model_len} if stub.max_model_len else {}
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "tests", **more} for name in stub.models]
        return self._fail(Failure(200, json.dumps({"object": "list", "data": data})))

    def do_POST(self) -> None:
        stub = self.server_of
        stub.authorizations.append(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub.requests.append(body)
        stub.count(1)
        try:
            answer = stub.chat(body)
            if isinstance(answer, Failure):
                return self._fail(answer)
            self._stream(body, answer)
        except OSError:
            stub.left.set()
            self.close_connection = True
        finally:
            stub.count(-1)

    def _fail(self, failure: Failure) -> None:
        data = failure.body.encode()
        self.send_response(failure.status)
        for name, value in {"Content-Type": "application/json", **failure.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: dict[str, Any], pieces: Iterable[Piece]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = 0
        for piece in pieces:
            if isinstance(piece, Cut):
                self.close_connection = True
                return
            count += isinstance(piece, str)
            self._event(_chunk({"content": piece}) if isinstance(piece, str) else piece)
        self._event(_chunk({}, finish_reason="length" if count >= body["max_tokens"] else "stop"))
        usage = {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count}
        self._event({**_chunk(None), "choices": [], "usage": usage})
        self._event(b"data: [DONE]\n\n")
        self._part(b"")

    def _event(self, data: dict[str, Any] | bytes) -> None:
        self._part(data if isinstance(data, bytes) else f"data: {json.dumps(data)}\n\n".encode())

    def _part(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _chunk(delta: dict[str, Any] | None, finish_reason: str | None = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny", "choices": choices}
