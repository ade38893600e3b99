"""Whether a service may be called: not before its model is warm, never if that failed, and not once the server drains.

Load balancers read the same state through grpc.health.v1; this gate is for callers who do not look.
"""

from collections.abc import Iterable

from warmer.errors import Unavailable, WarmerError, from_status, to_status

_ALWAYS = ("/grpc.health.", "/grpc.reflection.")


class Readiness:
    """The set of full service names that are being warmed, and whether the server drains."""

    def __init__(self) -> None:
        self._warming: set[str] = set()
        self._failed: dict[str, WarmerError] = {}
        self._draining = False

    def warming(self, names: Iterable[str]) -> None:
        """These services are not ready yet."""
        self._warming.update(names)

    def ready(self, names: Iterable[str]) -> None:
        """These services can be called from now on."""
        for name in names:
            self._warming.discard(name)
            self._failed.pop(name, None)

    def failed(self, names: Iterable[str], error: WarmerError) -> None:
        """These services cannot load what they need, for now or for good: every call is told why."""
        self._failed.update(dict.fromkeys(names, error))

    def drain(self) -> None:
        """No service takes new calls from now on."""
        self._draining = True

    def check(self, method: str) -> None:
        """Raises Unavailable (WARMING_UP or SHUTTING_DOWN) when `method` (`/service/name`) cannot be called now,
        or what `failed` was told.
        """
        if method.startswith(_ALWAYS):
            return
        if self._draining:
            raise Unavailable(
                "the server is shutting down", reason="SHUTTING_DOWN", hint="try again", retry_after_s=1.0
            )
        service = method.split("/")[1]
        if service in self._failed:
            error = self._failed[service]
            raise from_status(to_status(error)) or error  # each call its own: tracebacks must not mix
        if service in self._warming:
            raise Unavailable(
                "the server is loading its model",
                reason="WARMING_UP",
                hint="try again in a few seconds",
                retry_after_s=2.0,
            )
