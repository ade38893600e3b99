"""Downloads a file by HTTP so that nothing is lost: an interrupted one goes on where it stopped, also after a kill.

What is there lies in `<name>.part`, and `<name>.mark` beside it holds what the server said of the file, so that a file
that has changed meanwhile is not glued to the old one (If-Range, RFC 9110 section 13.1.5).
"""

from __future__ import annotations

import errno
import re
import time
from pathlib import Path
from typing import Any, Literal

import requests

from services.fetching import hub
from services.fetching.faults import check_space, no_space, wrong_sha256
from services.fetching.lock import LockedFile, sha256_of
from services.fetching.parts import Part
from services.fetching.progress import ProgressBar
from services.fetching.sources import Item
from warmer.errors import DataLoss, InvalidArgument, NotFound, PermissionDenied, Unavailable

_CHUNK = 1 << 16  # what a cut connection loses at most
_CONNECT_S = 15.0
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class _Interrupted(Exception):
    """The transfer broke off in a way that another attempt may mend. Its text says how."""

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class Downloads:
    """Brings files into a folder, over one session, which keeps to the environment's proxies and certificates.

    `attempts` in a row without a new byte end a download; between them it waits `pause_s`, then twice that, and so on.
    """

    def __init__(
        self,
        progress: ProgressBar,
        source: Literal["hub", "url", "local"],
        name: str,
        token_env: str = "",
        *,
        read_timeout_s: float = 60.0,
        attempts: int = 5,
        pause_s: float = 1.0,
    ) -> None:
        self._progress = progress
        self._source = source
        self._name = name
        self._token_env = token_env
        self._timeout = (_CONNECT_S, read_timeout_s)
        self._attempts = attempts
        self._pause_s = pause_s
        self._session = requests.Session()

    def bring(self, item: Item, folder: Path) -> LockedFile:
        """Downloads a file, or finds that it is there. Returns it with its sum.

        Raises PermissionDenied, NotFound, InvalidArgument, Unavailable, DataLoss (WRONG_SHA256) and ResourceExhausted
        (NO_SPACE). What had come stays for the next call, but for content that is wrong.
        """
        target = folder / item.path
        if target.is_file():
            if there := self._there(item, target):
                return there
            target.unlink()
        part = Part(folder / f"{item.path}.part")
        self._progress.start(item.path, item.size, part.size)
        if item.size is None or part.size != item.size:
            self._until_whole(item, part)
        if item.sha256 and part.sha256 != item.sha256:
            found = part.sha256
            part.discard()
            raise wrong_sha256(item, found)
        return part.finish(target)

    def _there(self, item: Item, target: Path) -> LockedFile | None:
        """The file of an earlier run, if it is the right one."""
        size = target.stat().st_size
        self._progress.start(f"{item.path} (is there)", size)
        found = LockedFile(item.path, size, sha256_of(target, self._progress.advance))
        right = item.sha256 in ("", found.sha256) and item.size in (None, size)
        return found if right else None

    def _until_whole(self, item: Item, part: Part) -> None:
        best, failures = part.size, 0
        while True:
            try:
                self._attempt(item, part)
                return
            except _Interrupted as error:
                failures = 0 if part.size > best else failures + 1
                best = max(best, part.size)
                if failures >= self._attempts:
                    raise Unavailable(
                        f"{item.path} cannot be downloaded: {error}",
                        reason="DOWNLOAD_FAILED",
                        hint="run the same command again: it goes on where it stopped"
                        if part.size
                        else "check network and proxy (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE), then run it again",
                    ) from error
                self._progress.note(f"{item.path}: {error}; trying again")
                time.sleep(max(error.wait_s, self._pause_s * 2 ** max(0, failures - 1)))

    def _attempt(self, item: Item, part: Part) -> None:
        mark = part.mark()
        headers = {"Accept-Encoding": "identity", **item.headers}
        if part.size:
            headers["Range"] = f"bytes={part.size}-"
            if mark.get("validator"):
                headers["If-Range"] = mark["validator"]
        try:
            with self._session.get(item.place, headers=headers, stream=True, timeout=self._timeout) as response:
                self._check(response, item, part)
                total = self._position(response, item, part)
                check_space(part.path.parent, (total or 0) - part.size)
                self._progress.start(item.path, total, part.size)
                part.append(response.iter_content(_CHUNK), self._progress.advance)
        except requests.exceptions.SSLError as error:
            raise Unavailable(
                f"the certificate of {item.place.split('/')[2]} is not trusted here: {_cause(error)}",
                reason="TLS_FAILED",
                hint="behind a proxy that has its own authority, set SSL_CERT_FILE to its certificates",
            ) from error
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _Interrupted(_cause(error)) from error
        except requests.RequestException as error:
            raise InvalidArgument(
                f"{item.path} cannot be downloaded: {error}", reason="BAD_SOURCE", hint="check the URL", field="from"
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_space(part.path.parent, None) from error
            raise
        if total is not None and part.size != total:
            if part.size > total:
                part.discard()
            raise _Interrupted(f"{part.size} of {total} bytes came")

    def _check(self, response: requests.Response, item: Item, part: Part) -> None:
        """Raises what the response's status means. 416 means that the part does not fit the file: it is forgotten."""
        status = response.status_code
        if status == 416:
            part.restart({})
            raise _Interrupted("the server has less than what is here; starting over")
        if status in _TRY_AGAIN:
            raise _Interrupted(f"the server answers {status} {response.reason}", _retry_after(response))
        if status in (401, 403, 407):
            raise hub.gated(self._name, self._token_env) if self._source == "hub" else _forbidden(response)
        if status in (404, 410):
            raise NotFound(
                f"the server has no {item.path} at that address ({status})",
                reason="SOURCE_NOT_FOUND",
                hint="check the URL, or give another one with --from",
            )
        if status not in (200, 206):
            raise Unavailable(
                f"the server answers {status} {response.reason}", reason="DOWNLOAD_FAILED", hint="check the URL"
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise InvalidArgument(
                f"that address answers with a web page, not with {item.path}",
                reason="NOT_A_FILE",
                hint="open it in a browser, download the file there, and give it with --from FILE",
            )

    def _position(self, response: requests.Response, item: Item, part: Part) -> int | None:
        """Makes the part fit what the response continues. The size of the whole file, if the server names it."""
        validator = {"validator": _validator(response)}
        if response.status_code == 200:
            part.restart(validator)
            length = response.headers.get("Content-Length")
            total = int(length) if length and "Content-Encoding" not in response.headers else None
        else:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or match[1] is None or int(match[1]) != part.size:
                part.restart({})
                raise _Interrupted("the server continues at another place; starting over")
            total = int(match[2]) if match[2] != "*" else None
        if item.size is not None and total is not None and total != item.size:
            part.discard()
            raise DataLoss(
                f"{item.path} has {total} bytes there, not {item.size}",
                reason="WRONG_SIZE",
                hint="the file has been changed at its source; check it, then give it with --from",
            )
        return total if total is not None else item.size


def _validator(response: requests.Response) -> str:
    """A strong ETag, or the date of the last change: what If-Range takes. Weak ETags are not for ranges."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait, a minute at most."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), 60.0) if text.isdigit() else 0.0


def _forbidden(response: requests.Response) -> PermissionDenied:
    return PermissionDenied(
        f"the server refuses: {response.status_code} {response.reason}",
        reason="FORBIDDEN",
        hint="if it asks for a token, name the variable that holds it: --token-env VARIABLE; or download the file in a "
        "browser and give it with --from FILE",
    )


def _cause(error: Any) -> str:
    """The innermost reason in a few words: the libraries wrap it several times."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__ or _argument(seen)) is not None:
        seen = inner
    text = getattr(seen, "strerror", None) or getattr(seen, "verify_message", None) or str(seen)
    return str(text)[:200] or type(seen).__name__


def _argument(error: BaseException) -> BaseException | None:
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return reason
    return next((argument for argument in error.args if isinstance(argument, BaseException)), None)
