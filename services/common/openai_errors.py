"""What can go wrong with an OpenAI-compatible server, as Warmer's errors: one clear sentence, and what to do about it.

No error holds the API key, even where a server repeats it.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.common.failures import to_warmer_error
from warmer.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WarmerError,
)

if TYPE_CHECKING:
    import openai

# In the words of vLLM, SGLang, llama.cpp and OpenAI.
_TOO_LONG = re.compile(r"context[ _](?:length|size|window)|max_tokens must be at least 1", re.IGNORECASE)
_MESSAGE_CHARS = 300
_MOST_NAMES = 10
_LONGEST_WAIT_S = 3600.0


class NotUnderstood(Exception):
    """The server sent something else than the API says."""


@dataclass(frozen=True)
class ServerErrors:
    """Words for the failures of one server. `url` is without credentials; the variables are the settings to correct."""

    url: str
    url_variable: str
    model_variable: str
    timeout_s: float
    secret: str = field(default="", repr=False)

    def of(self, error: Exception) -> WarmerError:
        """The error to answer with for whatever a call to the server raised."""
        import openai

        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        if _is_http(cause, "ConnectTimeout"):
            return self._unreachable(str(cause) or "it takes no connections")
        if isinstance(error, (TimeoutError, openai.APITimeoutError)) or _is_http(error, "TimeoutException"):
            return self.too_slow()
        if isinstance(error, openai.APIConnectionError) or _is_http(error, "TransportError"):
            return self._unreachable(str(cause or error))
        if isinstance(error, openai.APIStatusError):
            return self._of_status(error.status_code, self._said(error), error.response.headers)
        return self._of_content(error)

    def too_slow(self) -> WarmerError:
        """The server did not answer in time."""
        return DeadlineExceeded(
            f"the model server at {self.url} did not answer within {self.timeout_s:g} s",
            reason="MODEL_SERVER_TIMEOUT",
            hint="look whether it is overloaded, or raise WARMER_OPENAI_TIMEOUT_S",
        )

    def no_such_api(self, what: str) -> WarmerError:
        """Something answers at the URL, and it is not what is needed."""
        return FailedPrecondition(
            f"{self.url} does not answer as an OpenAI-compatible server: {self._clean(what)}",
            reason="MODEL_SERVER_BAD_ANSWER",
            hint=f"check {self.url_variable}: the base URL usually ends in /v1",
        )

    def not_served(self, model: str, served: Sequence[str]) -> WarmerError:
        """The server has no model of this name."""
        return FailedPrecondition(
            f"the model server at {self.url} has no model {model!r}; it serves {_names(served)}",
            reason="MODEL_NOT_FOUND",
            hint=f"set {self.model_variable} to a name that it serves, or let it serve that model",
        )

    def not_chosen(self, served: Sequence[str]) -> WarmerError:
        """No model is named, and the server does not serve exactly one."""
        return FailedPrecondition(
            f"{self.model_variable} names no model, and the model server at {self.url} serves {_names(served)}",
            reason="MODEL_NOT_SET",
            hint=f"set {self.model_variable} to the name of one that it serves",
        )

    def _unreachable(self, why: str) -> WarmerError:
        return Unavailable(
            f"no connection to the model server at {self.url}: {self._clean(why)}",
            reason="MODEL_SERVER_UNREACHABLE",
            hint=f"look whether it runs, and check {self.url_variable}",
        )

    def _of_content(self, error: Exception) -> WarmerError:
        """The error for what came in an answer that began well."""
        import openai

        if isinstance(error, openai.APIError):  # sent in the stream, where a number is an HTTP status
            code = str(error.code or "")
            return self._of_status(int(code) if code.isdecimal() else 500, self._said(error), {})
        if isinstance(error, NotUnderstood):
            return self.no_such_api(str(error))
        return to_warmer_error(error)

    def _of_status(self, code: int, said: str, headers: Mapping[str, str]) -> WarmerError:
        """The error for an HTTP status. For a model that is not there, `not_served` has better words."""
        if code in (408, 504):
            return self.too_slow()
        if code < 400 or code in (404, 405):
            return self.no_such_api(f"HTTP {code}: {said}")
        place = f"the model server at {self.url}"
        if code in (401, 403):
            return FailedPrecondition(
                f"{place} refused the call (HTTP {code}): {said}",
                reason="MODEL_SERVER_REFUSED",
                hint="check WARMER_OPENAI_API_KEY",
            )
        if code == 429:
            wait = retry_after_s(headers)
            return ResourceExhausted(
                f"{place} takes no more calls now (HTTP 429): {said}",
                reason="MODEL_SERVER_BUSY",
                hint="try again later, or lower WARMER_OPENAI_CONCURRENCY",
                retry_after_s=1.0 if wait is None else wait,
            )
        if code >= 500:
            return Unavailable(
                f"{place} failed (HTTP {code}): {said}", reason="MODEL_SERVER_FAILED", hint="look into its log"
            )
        return _rejected(place, code, said)

    def _said(self, error: openai.APIError) -> str:
        """The server's own message: each kind puts it elsewhere."""
        body = error.body
        if isinstance(body, dict):
            inner = body.get("error")
            body = inner if isinstance(inner, dict) else {"message": inner} if isinstance(inner, str) else body
            body = body.get("message") or body.get("detail") or error.message
        return self._clean(str(body or error.message))

    def _clean(self, text: str) -> str:
        if self.secret:
            text = text.replace(self.secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _MESSAGE_CHARS else text[: _MESSAGE_CHARS - 1] + "…"


def _rejected(place: str, code: int, said: str) -> WarmerError:
    if _TOO_LONG.search(said):
        return InvalidArgument(
            f"the prompt is too long for {place}: {said}", reason="PROMPT_TOO_LONG", hint="send shorter texts"
        )
    return InvalidArgument(
        f"{place} rejected the request (HTTP {code}): {said}",
        reason="MODEL_SERVER_REJECTED",
        hint="check that the model takes what it is sent: images need a model that sees",
    )


def _is_http(error: BaseException | None, name: str) -> bool:
    """Whether it is this exception of the HTTP library below the client, httpx or its successor: the client passes some
    on as they are, and which library it has is its own business."""
    return any(kind.__name__ == name and kind.__module__.startswith("httpx") for kind in type(error).__mro__)


@contextmanager
def understanding() -> Iterator[None]:
    """For code that reads what the server sent: the client checks no types. Raises NotUnderstood."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # ValueError: no JSON, no UTF-8
        raise NotUnderstood(f"{type(error).__name__} in what it sent") from error


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from the header Retry-After in seconds or as a date (RFC 9110, 10.2.3); None without one."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        if date is None:
            return None
        seconds = email.utils.mktime_tz(date) - time.time()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), _LONGEST_WAIT_S)


def _names(served: Sequence[str]) -> str:
    more = f" and {len(served) - _MOST_NAMES} more" if len(served) > _MOST_NAMES else ""
    return (", ".join(served[:_MOST_NAMES]) or "none") + more
