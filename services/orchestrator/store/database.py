"""The connection to Redis: any kind of URL, a short wait for a server that restarts, and errors that say what to do.

Every operation that goes through :meth:`Database.call` may be run again after a lost connection, so each of them has
to be safe to repeat; the scripts in ``scripts.py`` are written that way.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from warmer.errors import InvalidArgument, ResourceExhausted, Unavailable, WarmerError

Client = Redis | RedisCluster
Value = bytes | str | int
T = TypeVar("T")

CONNECT_TIMEOUT_S = 2.0
SOCKET_TIMEOUT_S = 3.0
RECONNECT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5

# What a restart, a failover or a moving slot looks like. BusyLoadingError is a ConnectionError.
_TRANSIENT = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
    redis_errors.SlotNotCoveredError,
    OSError,
)
_REFUSED = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.NoPermissionError,
)
_REFUSING_WORDS = ("invalid username-password pair", "already authenticated", "NOAUTH", "WRONGPASS", "NOPERM")


class Script:
    """A Lua script and its SHA-1, by which Redis knows it once it has seen it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Database:
    """A Redis client that waits out a restart and raises Warmer's errors.

    Raises, from every method: Unavailable (REDIS_UNAVAILABLE, REDIS_READ_ONLY, REDIS_CANNOT_WRITE) and
    ResourceExhausted (REDIS_OUT_OF_MEMORY).
    """

    def __init__(self, client: Client, where: str, *, reconnect_s: float = RECONNECT_S) -> None:
        self._client = client
        self._where = where
        self._reconnect_s = reconnect_s

    @classmethod
    def from_url(cls, url: str, *, reconnect_s: float = RECONNECT_S) -> Database:
        """For `redis://`, `rediss://`, `redis+cluster://`, `rediss+cluster://` and `unix://`; connects when used.

        Raises InvalidArgument (BAD_REDIS_URL).
        """
        scheme, _, rest = url.partition("://")
        options: dict[str, Any] = _client_options()
        try:
            if scheme in ("redis", "rediss", "unix"):
                return cls(Redis.from_url(url, **options), _without_password(url), reconnect_s=reconnect_s)
            if scheme in ("redis+cluster", "rediss+cluster"):
                cluster = RedisCluster.from_url(f"{scheme.removesuffix('+cluster')}://{rest}", **options)
                return cls(cluster, _without_password(url), reconnect_s=reconnect_s)
        except ValueError as error:
            raise _bad_url(url) from error
        raise _bad_url(url)

    @classmethod
    def from_socket(cls, path: Path, *, reconnect_s: float = RECONNECT_S) -> Database:
        """For a server that listens on a unix socket."""
        return cls(Redis(unix_socket_path=str(path), **_client_options()), str(path), reconnect_s=reconnect_s)

    async def call(self, operation: Callable[[Client], Awaitable[T]]) -> T:
        """Runs an operation, again and again for a short while if the connection fails. It must be safe to repeat."""
        give_up = time.monotonic() + self._reconnect_s
        for pause in _pauses():
            try:
                return await operation(self._client)
            except _TRANSIENT as error:
                if _is_refusal(error):
                    raise self._refused(error) from error
                if time.monotonic() + pause > give_up:
                    raise self._unreachable(error) from error
                await asyncio.sleep(pause)
            except redis_errors.RedisError as error:
                translated = self._refused(error) if _is_refusal(error) else _translated(error)
                if translated is None:
                    raise
                raise translated from error
        raise AssertionError("the pauses never end")

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Value]) -> Any:
        """Runs a Lua script, sending its text only to a server that does not know it yet."""

        async def operation(client: Client) -> Any:
            try:
                return await _awaited(client.evalsha(script.sha, len(keys), *keys, *args))
            except redis_errors.NoScriptError:
                return await _awaited(client.eval(script.text, len(keys), *keys, *args))

        return await self.call(operation)

    async def command(self, *parts: Value) -> Any:
        """Runs one command, safe to repeat."""
        return await self.call(lambda client: _awaited(client.execute_command(*parts)))

    async def commands(self, commands: Sequence[Sequence[Value]]) -> list[Any]:
        """Runs several commands in one go; their keys may lie anywhere."""
        if not commands:
            return []

        async def operation(client: Client) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for parts in commands:
                pipeline.execute_command(*parts)
            return list(await pipeline.execute())

        return await self.call(operation)

    async def ping(self) -> None:
        """Returns when Redis answers."""
        await self.command("PING")

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.aclose()

    def _unreachable(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"Redis at {self._where} cannot be reached: {error}",
            reason="REDIS_UNAVAILABLE",
            hint="Check WARMER_REDIS_URL and that Redis runs; sessions are kept and can be used once it is back.",
            retry_after_s=1.0,
        )

    def _refused(self, error: Exception) -> Unavailable:
        return Unavailable(
            f"Redis at {self._where} refuses us: {error}",
            reason="REDIS_UNAVAILABLE",
            hint="Check user name and password in WARMER_REDIS_URL, and the rights of the user.",
        )


def _client_options() -> dict[str, Any]:
    # Retries are our own (Database.call), so that a cluster and a single server behave alike.
    return {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 30,
    }


def _is_refusal(error: BaseException) -> bool:
    """Whether a wrong password or a lacking right is behind an error; while connecting, redis-py wraps it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _REFUSED):
            return True
        cause = cause.__cause__ or cause.__context__
    return any(words in str(error) for words in _REFUSING_WORDS)


async def _awaited(result: Any) -> Any:
    return await result


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_S
    while True:
        yield pause
        pause = min(pause * 1.6, _LONGEST_PAUSE_S)


def _translated(error: redis_errors.RedisError) -> WarmerError | None:
    """The error that Redis's own words stand for, or None for what only a defect of ours can cause."""
    text = str(error)
    if isinstance(error, redis_errors.OutOfMemoryError) or "OOM command not allowed" in text:
        return ResourceExhausted(
            "Redis has no memory left",
            reason="REDIS_OUT_OF_MEMORY",
            hint="Raise maxmemory, or shorten WARMER_SESSION_TTL_S; what was stored stays.",
            retry_after_s=5.0,
        )
    if isinstance(error, redis_errors.ReadOnlyError) or "READONLY" in text:
        return Unavailable(
            "Redis is a read-only replica",
            reason="REDIS_READ_ONLY",
            hint="Point WARMER_REDIS_URL at the primary, or try again after the failover.",
            retry_after_s=1.0,
        )
    if any(word in text for word in ("MISCONF", "NOREPLICAS")):
        return Unavailable(
            f"Redis refuses to write: {text}",
            reason="REDIS_CANNOT_WRITE",
            hint="Look at its log: the disk may be full, or replicas are missing.",
            retry_after_s=5.0,
        )
    return None


def _bad_url(url: str) -> InvalidArgument:
    return InvalidArgument(
        f"{_without_password(url)} is not a Redis URL",
        reason="BAD_REDIS_URL",
        field="WARMER_REDIS_URL",
        hint="Use embedded, redis://host:6379/0, rediss://..., redis+cluster://... or unix:///path/to/socket.",
    )


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
