"""Makes the client for an OpenAI-compatible server from the settings, and checks those before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from services.common.openai_errors import ServerErrors
from services.common.settings import ENV_PREFIX, Settings
from warmer.errors import FailedPrecondition

if TYPE_CHECKING:
    import openai

Asker = Literal["captioner", "rewriter"]
"""The services that ask such a server; each has settings of its own for URL and model."""

_CONNECT_S = 5.0


def client_of(settings: Settings, service: Asker) -> tuple[openai.AsyncOpenAI, ServerErrors]:
    """The client for the server that `service` asks, and the words for its failures.

    Raises FailedPrecondition (MODEL_SERVER_NOT_SET, BAD_SETTING or PACKAGE_NOT_INSTALLED).
    """
    prefix = f"{ENV_PREFIX}{service.upper()}"
    url: str = getattr(settings, f"{service}_openai_url").strip()
    shown = _shown(url, f"{prefix}_OPENAI_URL")
    key = _usable_key(settings)
    errors = ServerErrors(
        url=shown,
        url_variable=f"{prefix}_OPENAI_URL",
        model_variable=f"{prefix}_MODEL",
        timeout_s=settings.openai_timeout_s,
        secret=key,
    )
    return _made(url, key, settings.openai_timeout_s), errors


def _made(url: str, key: str, timeout_s: float) -> openai.AsyncOpenAI:
    """OpenAI's client. Raises FailedPrecondition (PACKAGE_NOT_INSTALLED)."""
    try:
        import openai
    except ImportError as error:
        raise FailedPrecondition(
            "the backend openai needs the package openai, which is not installed",
            reason="PACKAGE_NOT_INSTALLED",
            hint="pip install 'warmer[serve]'",
        ) from error
    return openai.AsyncOpenAI(
        base_url=url,
        # Without a key of its own the client would take one from the environment, which is meant for another server.
        api_key=key or "none",
        timeout=openai.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        max_retries=0,
    )


def _usable_key(settings: Settings) -> str:
    """The API key, without the line break that files of secrets end with."""
    key = settings.openai_api_key.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()):
        raise FailedPrecondition(
            "WARMER_OPENAI_API_KEY has characters that no HTTP header can carry",
            reason="BAD_SETTING",
            hint="copy the key again",
        )
    return key


def _shown(url: str, variable: str) -> str:
    """The URL as it may be shown: without user name and password. Raises FailedPrecondition."""
    if not url:
        raise FailedPrecondition(
            f"{variable} names no server",
            reason="MODEL_SERVER_NOT_SET",
            hint=f"set {variable} to the base URL of an OpenAI-compatible server, such as http://vllm:8000/v1",
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an address that is none
        usable = False
    if not usable:
        raise FailedPrecondition(
            f"{variable} is no URL of a server",
            reason="BAD_SETTING",
            hint="it looks like http://vllm:8000/v1, with http:// or https:// before the host",
        )
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
