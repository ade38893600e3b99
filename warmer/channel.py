"""Channels to the services: one place for message limits, keepalive, retries, deadlines, request ids, TLS and token.

gRPC's own defaults are traps for this work: 4 MiB messages, no deadline, no keepalive. Services use the same functions
for their calls among each other, so that both hops behave alike.

Retries are gRPC's own, by service config (https://grpc.io/docs/guides/retry): UNAVAILABLE alone, and only for methods
that can be repeated without harm.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from warmer._interceptors import AIO_DEFAULTS, REQUEST_ID_KEY, Defaults, SyncDefaults
from warmer.errors import InvalidArgument

MAX_MESSAGE_BYTES = 67_108_864
"""Largest message in either direction, in bytes (64 MiB). An image and its envelope must fit."""

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_ROUND_TIMEOUT_S = 60.0
"""Deadline of a session's search and refine, which wait for language models, in seconds."""

KEEPALIVE_TIME_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000

IDEMPOTENT_METHODS: dict[str, tuple[str, ...]] = {
    "warmer.v1.EmbedderService": (
        "GetModel",
        "GetCollection",
        "ListCollections",
        "GetImage",
        "ListImages",
        "GetImageContent",
        "PutCaptions",
        "GetCaptions",
        "PutVectors",
        "EmbedText",
        "EmbedImages",
        "Search",
        "RankImages",
    ),
    "warmer.v1.CaptionerService": ("GetModel",),
    "warmer.v1.RewriterService": ("GetModel",),
    "warmer.v1.OrchestratorService": ("GetSession", "ListSessions", "ListRounds"),
}
"""What the service config retries on UNAVAILABLE."""

_SCHEME = re.compile(r"^(?:dns|ipv4|ipv6):(?://[^/]*/)?")

Option = tuple[str, str | int]

__all__ = [
    "DEFAULT_ROUND_TIMEOUT_S",
    "DEFAULT_TIMEOUT_S",
    "IDEMPOTENT_METHODS",
    "MAX_MESSAGE_BYTES",
    "REQUEST_ID_KEY",
    "Tls",
    "channel_options",
    "checked_target",
    "is_local",
    "make_aio_channel",
    "make_channel",
    "neighbour",
    "server_options",
    "service_config",
]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for an encrypted channel, all PEM.

    Attributes:
        root_certificates: whom to trust; None takes gRPC's own list.
        client_certificate: this client's certificate chain, for mutual TLS; needs ``client_key``.
        client_key: the private key of ``client_certificate``.
    """

    root_certificates: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Channel credentials made of the files. Raises InvalidArgument (``BAD_TLS_FILE``) if one cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.root_certificates),
            private_key=_pem(self.client_key),
            certificate_chain=_pem(self.client_certificate),
        )


def make_channel(
    target: str,
    *,
    tls: Tls | None = None,
    token: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    options: Sequence[Option] = (),
) -> grpc.Channel:
    """A channel for blocking stubs.

    Args:
        target: any gRPC target: ``host:port``, ``unix:/path``, ``dns:///name:port``.
        tls: encrypts; None is plain text.
        token: sent as ``authorization: Bearer``, only over TLS or to this very machine.
        timeout_s: deadline of calls that set none, in seconds.
        max_message_bytes: limit in both directions.
        options: further gRPC channel arguments; they win over ours.

    Raises:
        InvalidArgument: ``TOKEN_WITHOUT_TLS``, ``BAD_TLS_FILE`` or ``BAD_TARGET``.
    """
    defaults = Defaults(timeout_s, _authorization(target, tls, token))
    arguments = _arguments(target, max_message_bytes, options)
    if tls is None:
        channel = grpc.insecure_channel(checked_target(target), options=arguments)
    else:
        channel = grpc.secure_channel(checked_target(target), tls.credentials(), options=arguments)
    return grpc.intercept_channel(channel, SyncDefaults(defaults))


def make_aio_channel(
    target: str,
    *,
    tls: Tls | None = None,
    token: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    options: Sequence[Option] = (),
    interceptors: Sequence[Any] = (),
) -> grpc.aio.Channel:
    """A channel for asyncio stubs; see :func:`make_channel`. Make it inside the event loop that uses it.

    Args:
        interceptors: ``grpc.aio`` client interceptors that run before ours, so that a deadline or request id that they
            forward is kept.
    """
    defaults = Defaults(timeout_s, _authorization(target, tls, token))
    chain: list[Any] = [*interceptors, *(kind(defaults) for kind in AIO_DEFAULTS)]
    arguments = _arguments(target, max_message_bytes, options)
    if tls is None:
        return grpc.aio.insecure_channel(checked_target(target), options=arguments, interceptors=chain)
    return grpc.aio.secure_channel(checked_target(target), tls.credentials(), options=arguments, interceptors=chain)


def channel_options(max_message_bytes: int = MAX_MESSAGE_BYTES, extra: Sequence[Option] = ()) -> list[Option]:
    """Channel arguments of all channels; those in ``extra`` replace ours of the same name."""
    options: dict[str, str | int] = {
        "grpc.max_send_message_length": max_message_bytes,
        "grpc.max_receive_message_length": max_message_bytes,
        # Pings run while calls run: they find dead peers, and keep stateful middleboxes from dropping quiet streams.
        "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.enable_retries": 1,
        "grpc.service_config": service_config(),
        # After a restart of a server the next call should not wait out two minutes of backoff.
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.min_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": 5_000,
    }
    return list((options | dict(extra)).items())


def server_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[Option]:
    """Server arguments that go with :func:`channel_options`: the same limits, and leave to ping that often."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def service_config() -> str:
    """The gRPC service config as JSON: retries on UNAVAILABLE for :data:`IDEMPOTENT_METHODS`."""
    names = [{"service": service, "method": name} for service, names in IDEMPOTENT_METHODS.items() for name in names]
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.2s",
        "maxBackoff": "3s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


def checked_target(target: str) -> str:
    """The target itself. Raises InvalidArgument (``BAD_TARGET``) for an empty one or a URL."""
    if not target.strip() or re.match(r"^https?://", target):
        raise InvalidArgument(
            f"{target!r} is not a gRPC target",
            reason="BAD_TARGET",
            hint="Write host:port or unix:/path/to/socket, without http://.",
            field="target",
        )
    return target


def is_local(target: str) -> bool:
    """Whether the target is this very machine: a unix socket, ``localhost`` or a loopback address."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = _split(target)[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may resolve to anything


def neighbour(target: str, offset: int = 1) -> str:
    """The embedder's address by default: the orchestrator's host, its port + ``offset``; the same socket for unix.

    Raises InvalidArgument (``BAD_TARGET``) for a target without a port.
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return target
    host, port = _split(target)
    if port is None:
        raise InvalidArgument(
            f"{target!r} names no port, so the embedder's address cannot be derived from it",
            reason="BAD_TARGET",
            hint="Write host:port, or set the embedder's own address (WARMER_EMBEDDER_TARGET).",
            field="target",
        )
    prefix = target[: len(target) - len(f"{host}:{port}")]
    return f"{prefix}{host}:{port + offset}"


def _arguments(target: str, max_message_bytes: int, extra: Sequence[Option]) -> list[Option]:
    # A proxy from the environment cannot reach this machine's loopback, yet gRPC would ask it.
    direct: list[Option] = [("grpc.enable_http_proxy", 0)] if is_local(target) else []
    return channel_options(max_message_bytes, [*direct, *extra])


def _split(target: str) -> tuple[str, int | None]:
    """Host and port of a target without its scheme; a bare IPv6 address has no port."""
    rest = _SCHEME.sub("", checked_target(target))
    host, colon, port = rest.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return rest, None
    return host, int(port)


def _authorization(target: str, tls: Tls | None, token: str | None) -> str | None:
    if not token:
        return None
    if tls is None and not is_local(target):
        raise InvalidArgument(
            f"the token would travel unencrypted to {target}",
            reason="TOKEN_WITHOUT_TLS",
            hint="Use TLS: tls=Tls(root_certificates=...).",
            field="token",
        )
    return f"Bearer {token}"


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror}", reason="BAD_TLS_FILE", field="tls", hint="Check path and rights."
        ) from error
