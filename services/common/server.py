"""The gRPC server around a service: limits, health, reflection, warming, and a clean end.

A service describes itself as a `Service`; `ServiceHost` puts one or several of them on one server (the local stack has
all four), and `serve` runs a host until a signal comes.
"""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.health import Health
from services.common.interceptors import ServerInterceptor
from services.common.readiness import Readiness
from services.common.settings import Settings
from warmer import channel
from warmer.errors import DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable, WarmerError

_log = structlog.get_logger(__name__)

# Linux allows 108 bytes with the final zero for the path of a unix socket, macOS 104.
_SOCKET_PATH_BYTES = 103

_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)
_RETRY_S, _MAX_RETRY_S = 1.0, 30.0


@dataclass(frozen=True)
class Service:
    """What a service gives to the server that hosts it.

    `registrations` add its servicers to a server; `names` are the full names of its gRPC services; `warm` loads its
    models and returns when calls can be answered; `close` is called once after the last call has ended.
    """

    registrations: list[Callable[[grpc.aio.Server], None]]
    names: list[str]
    warm: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


Build = Callable[[Settings], Awaitable[Service]]


def server_options(settings: Settings) -> list[channel.Option]:
    """Channel arguments of every server: message limits, keepalive, one process for each port."""
    return [
        *channel.server_options(settings.max_message_bytes),
        # Two servers on one port must fail, and not share the calls between them.
        ("grpc.so_reuseport", 0),
        # Clients ping to keep connections alive for days.
        ("grpc.keepalive_permit_without_calls", 1),
        # Notice clients that vanished without a word, so that their calls are cancelled.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def make_server(settings: Settings, readiness: Readiness | None = None) -> grpc.aio.Server:
    """A server with the limits and the interceptor of all Warmer services; not started, without a port."""
    return grpc.aio.server(interceptors=[ServerInterceptor(readiness or Readiness())], options=server_options(settings))


def listen_address(settings: Settings, port_or_address: str | int) -> str:
    """The address for gRPC: a bare port means that port on `settings.host`; `unix:...` and `host:port` stay."""
    text = str(port_or_address)
    if not text.isdigit():
        return text
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{text}"


def bind(server: grpc.aio.Server, address: str) -> int:
    """Makes the server listen on `address`; returns the port (1 for a unix socket).

    Raises FailedPrecondition (ADDRESS_IN_USE or BAD_SOCKET_PATH) naming the address.
    """
    is_socket = address.startswith("unix:")
    if is_socket:
        _check_socket_path(Path(address.removeprefix("unix:")), address)
    mask = os.umask(0o077) if is_socket else None  # a socket is for this user alone
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise _cannot_listen(address) from error
    finally:
        if mask is not None:
            os.umask(mask)
    if port == 0:
        raise _cannot_listen(address)
    return port


def _cannot_listen(address: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"cannot listen on {address}: the address is in use or not allowed",
        reason="ADDRESS_IN_USE",
        hint="stop the other process, or choose another port (WARMER_<SERVICE>_PORT) or host (WARMER_HOST)",
        resource=address,
    )


def _check_socket_path(path: Path, address: str) -> None:
    if len(str(path).encode()) > _SOCKET_PATH_BYTES:
        raise FailedPrecondition(
            f"the socket path has {len(str(path).encode())} bytes; at most {_SOCKET_PATH_BYTES} are possible: {path}",
            reason="BAD_SOCKET_PATH",
            hint="choose a shorter path",
        )
    if not path.parent.is_dir():
        raise FailedPrecondition(
            f"no folder for the socket: {path.parent}", reason="BAD_SOCKET_PATH", hint="create it, or choose another"
        )
    # gRPC removes whatever socket is there, so a second server would silently take the first one's place.
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(str(path)) not in (errno.ENOENT, errno.ECONNREFUSED):
            raise _cannot_listen(address)


class ServiceHost:
    """One server with one or several services. Order of calls: `add`, `start`, `warm`, then `stop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._readiness = Readiness()
        self._services: list[Service] = []
        self._health = Health()
        self._started = False
        self.server = make_server(settings, self._readiness)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    def add(self, service: Service) -> None:
        """Registers a service; it answers WARMING_UP until `warm`."""
        self._services.append(service)
        self._readiness.warming(service.names)
        for register in service.registrations:
            register(self.server)

    async def start(self, *addresses: str) -> list[int]:
        """Listens on the addresses with health NOT_SERVING; returns their ports. Raises as `bind`."""
        names = [name for service in self._services for name in service.names]
        reflection.enable_server_reflection((*names, "grpc.health.v1.Health", reflection.SERVICE_NAME), self.server)
        await self._health.set_serving(["", *names], False)
        ports = [bind(self.server, address) for address in addresses]
        await self.server.start()
        self._started = True
        for address, port in zip(addresses, ports, strict=True):
            _log.info("listening", address=address, port=port)
        return ports

    async def warm(self) -> None:
        """Warms the services one after the other, in the order of `add`; each is SERVING as soon as it can be.

        One after the other, because loading competes for the same cores and imports are not safe in parallel. Raises
        what a service raises.
        """
        for service in self._services:
            await self._warm(service)
        await self._all_serving()

    async def warm_patiently(self) -> None:
        """As `warm`, but a service that raises WarmerError stays NOT_SERVING and tells every caller why.

        What may pass (a server that cannot be reached) is tried again, until this is cancelled. What will not (a
        missing or damaged model) is left: ending the process would only hide the reason from whoever looks.
        """
        waiting, lost, wait_s = list(self._services), False, _RETRY_S
        while waiting:
            again = []
            for service in waiting:
                try:
                    await self._warm(service)
                except WarmerError as error:
                    passing = isinstance(error, _PASSING)
                    _log.error(f"not serving: {error}", services=service.names, reason=error.reason, retry=passing)
                    self._readiness.failed(service.names, error)
                    if passing:
                        again.append(service)
                    lost |= not passing
            waiting = again
            if waiting:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_RETRY_S)
        if not lost:
            await self._all_serving()

    async def _warm(self, service: Service) -> None:
        await service.warm()
        self._readiness.ready(service.names)
        await self._health.set_serving(service.names, True)

    async def _all_serving(self) -> None:
        await self._health.set_serving([""], True)
        _log.info("serving", services=[name for service in self._services for name in service.names])

    async def stop(self, drain_s: float, hurry: asyncio.Event | None = None) -> None:
        """NOT_SERVING, no new calls, up to `drain_s` seconds for those that run; then closes the services.

        Setting `hurry` ends the wait for running calls at once.
        """
        self._readiness.drain()
        await self._health.shut_down()
        if self._started:
            await _until(hurry or asyncio.Event(), self.server.stop(drain_s))
            await self.server.stop(0)
        for service in reversed(self._services):
            try:
                await service.close()
            except Exception:
                _log.exception("closing failed", services=service.names)


async def serve(settings: Settings, name: str, port_or_address: str | int, build: Build) -> int:
    """Runs one service until SIGTERM or SIGINT; returns the exit code of the process.

    0 after a signal, 1 when the service cannot be built or cannot listen. One that cannot load its model stays up and
    NOT_SERVING; see `ServiceHost.warm_patiently`. A second signal ends the drain at once.
    """
    return await serve_all(settings, name, [str(port_or_address)], [build])


async def serve_all(settings: Settings, name: str, addresses: Sequence[str], builds: Sequence[Build]) -> int:
    """As `serve`, for several services on one server that listens on several addresses."""
    host = ServiceHost(settings)
    stop, hurry = _signals()
    try:
        for build in builds:
            host.add(await build(settings))
        await host.start(*(listen_address(settings, address) for address in addresses))
        await _until(stop, host.warm_patiently())
    except Exception as error:
        if isinstance(error, WarmerError):
            _log.error(f"{name} cannot start: {error}", reason=error.reason)
        else:
            _log.exception(f"{name} cannot start")
        await host.stop(0)
        return 1
    await stop.wait()
    _log.info("draining", seconds=settings.drain_s)
    await host.stop(settings.drain_s, hurry)
    _log.info("stopped")
    return 0


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Events of the first and of the second SIGTERM or SIGINT."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def received() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received)
    return stop, hurry


async def _until(event: asyncio.Event, work: Awaitable[None]) -> None:
    """Runs `work` until it ends or `event` is set, which cancels it. Raises what `work` raises."""
    task = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        waiting.cancel()
        await asyncio.gather(task, waiting, return_exceptions=True)
