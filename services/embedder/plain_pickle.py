"""Reads pickles of plain data: dicts, lists, tuples, whole numbers and texts, and nothing else.

A pickle is a program for a small machine, and the usual machine can import and call whatever the program names
(https://docs.python.org/3/library/pickle.html#module-pickle). This one knows only the instructions that plain data
needs: there is nothing in it that could import or call. Anything else is refused by the name that it asked for.
"""

import io
import pickletools
from pathlib import Path
from typing import Any, TypeAlias

from warmer.errors import InvalidArgument

MAX_BYTES = 512 * 1024 * 1024
_MAX_TEXT = 65_536  # longer ones are no path

Plain: TypeAlias = int | str | list[Any] | tuple[Any, ...] | dict[int | str, Any] | None

_MARK = object()
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}


def read_plain(path: Path) -> Plain:
    """The data in a pickle file.

    Raises InvalidArgument: UNSAFE_PICKLE for anything but plain data, BAD_PICKLE for what is no pickle,
    FILE_TOO_LARGE, UNREADABLE_FILE.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise InvalidArgument(
            f"cannot read {path}: {error.strerror or error}", reason="UNREADABLE_FILE", hint="Check path and rights."
        ) from error
    if size > MAX_BYTES:
        raise InvalidArgument(
            f"{path} has {size:,} bytes, at most {MAX_BYTES:,} are read",
            reason="FILE_TOO_LARGE",
            hint="Is it the id map, and not the embeddings?",
        )
    try:
        return _Machine().run(data)
    except (ValueError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise InvalidArgument(
            f"{path} is no pickle of plain data: {error}", reason="BAD_PICKLE", hint="Is it the id map, and whole?"
        ) from error


class _Machine:
    """A stack and a memo. `run` raises InvalidArgument (UNSAFE_PICKLE), and built-in errors for broken programs."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Plain:
        argument: Any
        for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
            name = opcode.name
            if name == "STOP":
                (result,) = self._stack
                plain: Plain = _checked(result)
                return plain
            if name in _VALUES:
                self._stack.append(_checked(argument))
            elif name in _PUTS or name == "MEMOIZE":
                self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._stack[-1]
            elif name in _GETS:
                self._stack.append(self._memo[argument])
            elif not self._build(name):
                raise _unsafe(name, argument, position)
        raise ValueError("it ends too early")

    def _build(self, name: str) -> bool:
        """Makes and fills containers; False for an instruction that it does not know."""
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "NONE":
                stack.append(None)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append(_EMPTY[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = _TUPLES[name]
                stack[-count:] = [tuple(stack[-count:])]
            case "DICT" | "LIST" | "TUPLE":
                items = self._since_mark()
                stack.append(_pairs(items) if name == "DICT" else tuple(items) if name == "TUPLE" else items)
            case "APPEND" | "APPENDS":
                items = self._since_mark() if name == "APPENDS" else [stack.pop()]
                _need(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _need(stack[-1], dict).update(_pairs(items))
            case _:
                return False
        return True

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


def _pairs(items: list[Any]) -> dict[int | str, Any]:
    keys = items[::2]
    if not all(isinstance(key, int | str) for key in keys):  # tuples of tuples of tuples take for ever to hash
        raise ValueError("a key that is neither a number nor a text")
    return dict(zip(keys, items[1::2], strict=True))


def _need(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} where {kind.__name__} is needed")
    return value


def _checked(value: Any) -> Any:
    if value is _MARK:
        raise ValueError("it ends within a container")
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise ValueError(f"a text of {len(value):,} characters")
    return value


def _unsafe(name: str, argument: object, position: int | None) -> InvalidArgument:
    asked = f" {str(argument)[:100]!r}" if argument is not None else ""
    return InvalidArgument(
        f"the pickle is refused: at byte {position} it has the instruction {name}{asked}, and not plain data",
        reason="UNSAFE_PICKLE",
        hint="A pickle can run programs. Only dicts, lists, tuples, whole numbers and texts are read.",
    )
