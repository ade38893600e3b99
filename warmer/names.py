"""Resource names and ids, in one place so that SDK and servers cannot disagree about what is a valid one.

Names follow https://google.aip.dev/122: ``collections/{collection}/images/{image}`` and
``sessions/{session}/rounds/{round}``. Every function raises :class:`~warmer.errors.InvalidArgument` with reason
``BAD_ID`` for what is not a name or id.

Image ids are the caller's. Those made from file paths use the escape of :func:`image_id_from_path`: ``/`` becomes
``%2F``, ``%`` becomes ``%25``, and a byte that is not UTF-8 becomes ``%XX``; everything else, spaces and letters of all
scripts included, stays readable. :func:`path_from_image_id` reverses it.
"""

from __future__ import annotations

import re
from pathlib import PurePath, PurePosixPath

from warmer.errors import InvalidArgument

MAX_IMAGE_ID_BYTES = 512

_COLLECTION_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SESSION_ID = re.compile(r"[a-z0-9-]{1,63}")
_ROUND = re.compile(r"0|[1-9][0-9]{0,8}")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_UNDECODABLE = range(0xDC80, 0xDD00)  # where PEP 383 (surrogateescape) puts bytes that are not UTF-8


def check_collection_id(id: str) -> str:
    """The id itself, if it is 1 to 63 of ``a-z``, ``0-9``, ``-`` and ``_`` and starts with a letter or digit."""
    if not _COLLECTION_ID.fullmatch(id):
        raise _bad(
            f"{_shown(id)} is not a collection id",
            "Use 1 to 63 of a-z, 0-9, - and _, starting with a letter or digit.",
            "collection_id",
        )
    return id


def check_session_id(id: str) -> str:
    """The id itself, if it is 1 to 63 of ``a-z``, ``0-9`` and ``-``."""
    if not _SESSION_ID.fullmatch(id):
        raise _bad(f"{_shown(id)} is not a session id", "Use 1 to 63 of a-z, 0-9 and -.", "session_id")
    return id


def check_image_id(id: str) -> str:
    """The id itself, if it is 1 to 512 bytes of UTF-8 without ``/`` and without NUL."""
    if not id:
        raise _bad("the image id is empty", "Give every image an id.", "image_id")
    if "/" in id or "\0" in id:
        raise _bad(
            f"the image id {_shown(id)} has a slash or a NUL in it",
            "Escape paths with warmer.names.image_id_from_path.",
            "image_id",
        )
    try:
        size = len(id.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise _bad(
            f"the image id {_shown(id)} is not valid Unicode",
            "Escape paths with warmer.names.image_id_from_path.",
            "image_id",
        ) from error
    if size > MAX_IMAGE_ID_BYTES:
        raise _bad(
            f"the image id {_shown(id)} has {size} bytes of UTF-8",
            f"Use at most {MAX_IMAGE_ID_BYTES}, for example a hash of the path.",
            "image_id",
        )
    return id


def collection_name(id: str) -> str:
    """``collections/{id}``."""
    return f"collections/{check_collection_id(id)}"


def collection_id(name: str) -> str:
    """The id in ``collections/{id}``."""
    match name.split("/"):
        case ["collections", id]:
            return check_collection_id(id)
    raise _bad_name(name, "collections/{collection}")


def image_name(collection_id: str, image_id: str) -> str:
    """``collections/{collection_id}/images/{image_id}``."""
    return f"{collection_name(collection_id)}/images/{check_image_id(image_id)}"


def image_parts(name: str) -> tuple[str, str]:
    """Collection id and image id of ``collections/{collection}/images/{image}``."""
    match name.split("/"):
        case ["collections", collection, "images", image]:
            return check_collection_id(collection), check_image_id(image)
    raise _bad_name(name, "collections/{collection}/images/{image}")


def session_name(id: str) -> str:
    """``sessions/{id}``."""
    return f"sessions/{check_session_id(id)}"


def session_id(name: str) -> str:
    """The id in ``sessions/{id}``."""
    match name.split("/"):
        case ["sessions", id]:
            return check_session_id(id)
    raise _bad_name(name, "sessions/{session}")


def round_name(session_id: str, index: int) -> str:
    """``sessions/{session_id}/rounds/{index}``."""
    if index < 0 or index > 999_999_999:
        raise _bad(f"{index} is not the number of a round", "Rounds are counted from 0.", "round")
    return f"{session_name(session_id)}/rounds/{index}"


def round_parts(name: str) -> tuple[str, int]:
    """Session id and round number of ``sessions/{session}/rounds/{round}``."""
    match name.split("/"):
        case ["sessions", session, "rounds", index] if _ROUND.fullmatch(index):
            return check_session_id(session), int(index)
    raise _bad_name(name, "sessions/{session}/rounds/{round}")


def image_id_from_path(relative: PurePath) -> str:
    """The image id of a file: its path relative to the indexed folder, escaped as the module describes.

    Raises InvalidArgument (``BAD_ID``) for an absolute path, one with ``..``, and one too long for an image id.
    """
    text = relative.as_posix()
    if relative.is_absolute() or ".." in relative.parts or text == ".":
        raise _bad(f"{_shown(text)} is not a path inside a folder", "Give the path relative to the folder.", "path")
    try:
        # Bytes that happen to be UTF-8 after all must give the same id however the path was made.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise _bad(f"the path {_shown(text)} is not valid Unicode", "Rename the file.", "path") from error
    return check_image_id("".join(map(_escape, text)))


def path_from_image_id(id: str) -> PurePosixPath:
    """The relative path that :func:`image_id_from_path` made the id from."""
    raw = _ESCAPE.sub(lambda match: _unescape(match, id), check_image_id(id).encode("utf-8"))
    return PurePosixPath(raw.decode("utf-8", "surrogateescape"))


def _escape(character: str) -> str:
    if character == "/":
        return "%2F"
    if character == "%":
        return "%25"
    if ord(character) in _UNDECODABLE:
        return f"%{ord(character) - 0xDC00:02X}"
    return character


def _unescape(match: re.Match[bytes], id: str) -> bytes:
    if match[1] is None:
        raise _bad(
            f"{_shown(id)} was not made from a path", "In such ids % is followed by two hexadecimal digits.", "image_id"
        )
    return bytes([int(match[1], 16)])


def _bad_name(name: str, pattern: str) -> InvalidArgument:
    return _bad(f"{_shown(name)} is not a resource name of the form {pattern}", f"Write {pattern}.", "name")


def _bad(message: str, hint: str, field: str) -> InvalidArgument:
    return InvalidArgument(message, reason="BAD_ID", hint=hint, field=field)


def _shown(id: str) -> str:
    """The id for a message: quoted, safe to encode, and not longer than a line."""
    text = id if len(id) <= 80 else id[:77] + "..."
    return ascii(text) if any(0xD800 <= ord(c) < 0xE000 for c in text) else repr(text)
