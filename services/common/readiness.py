"""Whether a service may be called: not before its model is warm, and not once the server shuts down.

Load balancers read the same state through grpc.health.v1; this gate is for callers who do not look.
"""

from collections.abc import Iterable

from warmer.errors import Unavailable

_ALWAYS = ("/grpc.health.", "/grpc.reflection.")


class Readiness:
    """The set of full service names that are being warmed, and whether the server drains."""

    def __init__(self) -> None:
        self._warming: set[str] = set()
        self._draining = False

    def warming(self, names: Iterable[str]) -> None:
        """These services are not ready yet."""
        self._warming.update(names)

    def ready(self, names: Iterable[str]) -> None:
        """These services can be called from now on."""
        self._warming.difference_update(names)

    def drain(self) -> None:
        """No service takes new calls from now on."""
        self._draining = True

    def check(self, method: str) -> None:
        """Raises Unavailable (WARMING_UP or SHUTTING_DOWN) when `method`, `/service/name`, cannot be called now."""
        if method.startswith(_ALWAYS):
            return
        if self._draining:
            raise Unavailable(
                "the server is shutting down", reason="SHUTTING_DOWN", hint="try again", retry_after_s=1.0
            )
        if method.split("/")[1] in self._warming:
            raise Unavailable(
                "the server is loading its model",
                reason="WARMING_UP",
                hint="try again in a few seconds",
                retry_after_s=2.0,
            )
