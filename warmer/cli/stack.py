"""The services as child processes: started together, watched, drained together. Nothing is restarted silently.

This module imports no service. It starts ``python -m services.<name>`` with this interpreter, and asks
``grpc.health.v1`` whether each is serving, which needs two bytes of protobuf and no package.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import grpc

from warmer.channel import make_channel
from warmer.errors import DeadlineExceeded, FailedPrecondition, Internal, WarmerError, from_rpc_error

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
# Reasons that say nothing of the service itself: it is on its way, or the call did not reach it.
_NO_TROUBLE = {"WARMING_UP", "SHUTTING_DOWN", *(code.name for code in grpc.StatusCode)}
LOG_TAIL_LINES = 20
SERVICES = ("orchestrator", "embedder", "captioner", "rewriter")
LOCAL = "local"  # all four in one process
_NEEDED = ("services", "onnxruntime", "pydantic_settings", "structlog", "grpc_health")


def require_services() -> None:
    """Raises FailedPrecondition (``SERVICES_NOT_INSTALLED``) unless the services can be started from here."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPrecondition(
            f"the services are not installed here (missing: {', '.join(missing)})",
            reason="SERVICES_NOT_INSTALLED",
            hint="pip install 'warmer[services]'",
        )


def service_name(name: str) -> str:
    """The full gRPC name of one of the four services."""
    return f"warmer.v1.{name.capitalize()}Service"


def is_serving(target: str, timeout_s: float = 1.0, *, service: str = "") -> bool:
    """Whether the server at the target, or one service of it, answers its health check with SERVING."""
    name = service.encode()
    request = b"\x0a" + bytes([len(name)]) + name if name else b""  # HealthCheckRequest{service}
    with make_channel(target) as channel:
        check = channel.unary_unary(HEALTH_METHOD, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer: bytes = check(request, timeout=timeout_s)
        except grpc.RpcError:
            return False  # not there yet; whoever waits also watches the process
        return answer == HEALTH_SERVING


def trouble(name: str, target: str, timeout_s: float = 1.0) -> WarmerError | None:
    """Why the service at the target cannot serve, in its own words; None while it is warming, or not there yet."""
    # A call that costs nothing; a service that cannot load what it needs answers every call with the reason.
    method = "ListSessions" if name == "orchestrator" else "GetModel"
    with make_channel(target) as channel:
        ask = channel.unary_unary(
            f"/{service_name(name)}/{method}", request_serializer=bytes, response_deserializer=bytes
        )
        try:
            ask(b"", timeout=timeout_s)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure)
            return None if error.reason in _NO_TROUBLE else error
        return None


@dataclass(slots=True)
class Child:
    """One service to run.

    Attributes:
        name: of the service.
        arguments: after ``python``.
        target: where it will serve.
        log: file that takes its output.
    """

    name: str
    arguments: Sequence[str]
    target: str
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def services(self) -> tuple[str, ...]:
        """Those of the four services that it runs."""
        return SERVICES if self.name == LOCAL else tuple(name for name in SERVICES if name == self.name)

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])


def four_services(logs: Path) -> tuple[list[Child], dict[str, str]]:
    """The four services on ports that are free now, and the environment that makes them know each other."""
    children: list[Child] = []
    environment: dict[str, str] = {}
    for name, port in zip(SERVICES, _free_ports(len(SERVICES)), strict=True):
        target = f"localhost:{port}"
        environment |= {f"WARMER_{name.upper()}_PORT": str(port), f"WARMER_{name.upper()}_TARGET": target}
        children.append(Child(name, ["-m", f"services.{name}"], target, logs / f"{name}.log"))
    return children, environment


class Stack:
    """Child processes that live and die together; use it in a ``with`` statement."""

    def __init__(self, children: Sequence[Child], environment: Mapping[str, str], drain_s: float) -> None:
        self.children = tuple(children)
        self._environment = dict(environment)
        self._drain_s = drain_s

    def __enter__(self) -> Stack:
        try:
            for child in self.children:
                _start(child, self._environment)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(
        self,
        timeout_s: float,
        on_ready: Callable[[Child], None],
        go_on: Callable[[], bool],
        on_trouble: Callable[[str, WarmerError], None] | None = None,
    ) -> bool:
        """Waits until all serve; ``go_on`` is called between looks, pauses a little, and says whether to keep waiting.

        A service that says why it cannot serve ends the wait, unless ``on_trouble`` is given and can do without it: it
        is told the service and the reason, once, and raises what it cannot accept.

        Returns whether all serve that are waited for. Raises Internal (``SERVICE_DIED``), DeadlineExceeded
        (``NOT_READY``), or what a service has to say.
        """
        deadline = time.monotonic() + timeout_s
        waiting = list(self.children)
        told: dict[str, WarmerError] = {}
        while waiting:
            self.check()
            for child in [child for child in waiting if is_serving(child.target)]:
                waiting.remove(child)
                on_ready(child)
            for child in list(waiting):
                if self._told(child, told, on_trouble):
                    waiting.remove(child)
            if waiting and time.monotonic() > deadline:
                names = ", ".join(child.name for child in waiting)
                raise DeadlineExceeded(
                    f"not ready after {timeout_s:.0f} s: {names}",
                    reason="NOT_READY",
                    hint=f"Look at {waiting[0].log}, or give more time with --wait.",
                )
            if waiting and not go_on():
                return False
        return True

    @staticmethod
    def _told(
        child: Child, told: dict[str, WarmerError], on_trouble: Callable[[str, WarmerError], None] | None
    ) -> bool:
        """Whether nothing is to be waited for any more, since the rest of the child's services have said why not."""
        states = {name: is_serving(child.target, service=service_name(name)) for name in child.services}
        for name in (name for name, serving in states.items() if not serving and name not in told):
            error = trouble(name, child.target)
            if error is None:
                continue
            if on_trouble is None:
                raise error
            on_trouble(name, error)
            told[name] = error
        return any(name in told for name in states) and all(serving or name in told for name, serving in states.items())

    def check(self) -> None:
        """Raises Internal (``SERVICE_DIED``) with the last lines of its log when a child has ended."""
        for child in self.children:
            if child.process is not None and (code := child.process.poll()) is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
                raise Internal(
                    f"{child.name} {how}. Its last log lines:\n{child.log_tail()}",
                    reason="SERVICE_DIED",
                    hint=f"The whole log: {child.log}",
                )

    def stop(self) -> None:
        """Asks all to drain (SIGTERM), and kills those that take longer than their drain time and a margin."""
        running = [child.process for child in self.children if child.process and child.process.poll() is None]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + self._drain_s + 10.0
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class LogTail:
    """Copies what is added to log files, line by line, with the service's name in front."""

    def __init__(self, children: Sequence[Child], write: Callable[[str], None]) -> None:
        self._write = write
        self._files: list[tuple[str, BinaryIO]] = [(child.name, child.log.open("rb")) for child in children]
        self._partial: dict[str, bytes] = {}

    def copy(self) -> None:
        """Writes what was added since the last time."""
        for name, file in self._files:
            *lines, rest = (self._partial.get(name, b"") + file.read()).split(b"\n")
            self._partial[name] = rest
            for line in lines:
                self._write(f"{name}: {line.decode('utf-8', 'replace')}")

    def close(self) -> None:
        """Writes the rest and closes the files."""
        self.copy()
        for _, file in self._files:
            file.close()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is found, so that they differ."""
    with ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]


def _start(child: Child, environment: Mapping[str, str]) -> None:
    child.log.parent.mkdir(parents=True, exist_ok=True)
    if child.log.exists():
        child.log.replace(child.log.with_suffix(".log.1"))  # one run back is kept, the disk does not fill
    with child.log.open("wb") as log:
        child.process = subprocess.Popen(
            [sys.executable, *child.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            # Ctrl-C goes to the terminal's whole foreground group; draining is for us to order.
            start_new_session=True,
        )
