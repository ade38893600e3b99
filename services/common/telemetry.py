"""Structured logs that carry the request id through all four services, and timers for the stages of a call.

Logs go to standard error, because standard output belongs to what a command prints. They never hold query text.
"""

import logging
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from services.common.settings import Settings

REQUEST_ID_KEY = "x-request-id"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_USABLE_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def configure_logging(settings: Settings, service: str) -> None:
    """Sets structlog up for this process; `service` is in every line."""
    as_json = settings.log_format == "json"
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        # The plain traceback: the pretty one prints local variables, and with them what people searched for.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
        _name_service(service),
    ]
    if as_json:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,  # module-level loggers are made before this runs
    )


def _name_service(service: str) -> structlog.typing.Processor:
    def add(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event.setdefault("service", service)
        return event

    return add


def usable_request_id(sent: str | bytes | None) -> str:
    """The request id that a caller sent, or a new one when there is none or it cannot be logged as it is."""
    if isinstance(sent, str) and _USABLE_REQUEST_ID.fullmatch(sent):
        return sent
    return uuid.uuid4().hex


def bind_request_id(request_id: str) -> None:
    """Makes `request_id` part of every log line, and of every downstream call, of the current task."""
    structlog.contextvars.bind_contextvars(request_id=request_id)


def current_request_id() -> str | None:
    """The request id of the call that is being served, or None outside one."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return request_id if isinstance(request_id, str) else None


class Timings:
    """Collects how long the stages of one call took, in the order in which they ended."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, float]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block as stage `name`, in seconds, whether it ends well or not."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begin)

    def add(self, name: str, seconds: float) -> None:
        """Adds a stage that was timed elsewhere."""
        self.stages.append((name, seconds))

    def seconds(self, name: str) -> float:
        """Sum of the seconds of all stages of this name."""
        return sum(seconds for stage, seconds in self.stages if stage == name)
