"""A real HTTP server with files, ranges and the faults that networks have; it also speaks the routes of a hub."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FileServer:
    """Serves `files` by path. What happened is in `served` (bytes of bodies by path) and `requests`."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)  # bytes after which the next responses break off
    ranges: bool = True
    delay_s: float = 0.0  # before each piece of 64 KiB
    statuses: list[int] = field(default_factory=list)  # answered first, instead of a file
    etag: str = '"one"'
    gated: bool = False
    sums: dict[str, bytes] = field(default_factory=dict)  # contents that the hub believes to have, where it errs
    served: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> FileServer:
        handler = type("Handler", (_Handler,), {"shared": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def add_repository(self, repository: str, folder: Path) -> None:
        """The files of a folder as a repository on the hub, with one in a subfolder and one of another format."""
        for path in folder.iterdir():
            self.files[f"/{repository}/resolve/{COMMIT}/{path.name}"] = path.read_bytes()
        for name in ("original/weights.pth", "tf_model.h5", ".gitattributes"):
            self.files[f"/{repository}/resolve/{COMMIT}/{name}"] = b"not wanted"


class _Handler(BaseHTTPRequestHandler):
    shared: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.shared
        path = self.path.partition("?")[0]
        server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if path.startswith("/api/models/"):
            self._repository(path)
        elif server.statuses:
            self._short(server.statuses.pop(0), b"no")
        elif path in server.files or self.path in server.files:
            self._file(path, server.files[path if path in server.files else self.path])
        else:
            self._short(404, b"no such file")

    def _repository(self, path: str) -> None:
        repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        prefix = f"/{repository}/resolve/{COMMIT}/"
        files = {name.removeprefix(prefix): data for name, data in self.shared.files.items() if name.startswith(prefix)}
        if not files:
            self._short(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("", "main", COMMIT):
            self._short(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            told = {name: self.shared.sums.get(prefix + name, data) for name, data in files.items()}
            siblings = [_sibling(name, data) for name, data in told.items()]
            answer = {"id": repository, "sha": COMMIT, "siblings": siblings}
            self._short(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, path: str, data: bytes) -> None:
        server = self.shared
        if server.gated and not self.headers.get("Authorization"):
            self._short(403, b"gated", {"X-Error-Code": "GatedRepo"})
            return
        start, wanted = 0, self.headers.get("Range", "")
        fits = self.headers.get("If-Range") in (None, server.etag)
        if server.ranges and wanted and fits:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self._short(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", server.etag)
        self.send_header("Content-Type", "text/html" if path.endswith("page.pth") else "application/octet-stream")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cut = server.cut_after.pop(0) if server.cut_after else len(data)
        self._body(path, data[start : start + cut])
        if start + cut < len(data):
            self.close_connection = True

    def _body(self, path: str, data: bytes) -> None:
        for offset in range(0, len(data), 1 << 16):
            time.sleep(self.shared.delay_s)
            piece = data[offset : offset + (1 << 16)]
            try:
                self.wfile.write(piece)
            except ConnectionError:  # the client was killed
                self.close_connection = True
                return
            self.shared.served[path] = self.shared.served.get(path, 0) + len(piece)

    def _short(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The test says what matters."""


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
    if name.endswith(".safetensors"):
        sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return sibling
