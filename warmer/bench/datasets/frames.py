"""Which frames of a video are used. Frames are counted from 0; nothing here knows how a video is decoded."""

from __future__ import annotations

import re

PICKS = ("even", "ends", "first")

_DIGITS = re.compile(r"(\d+)")


def picked(available: int, wanted: int, pick: str = "even") -> list[int]:
    """Numbers of the frames to use, ascending, without repetition; all of them when there are no more than wanted.

    `even`: the video is cut into `wanted` equal parts, and the frame in the middle of each is taken, so that title and
    fade-out are left out. `ends`: evenly spread with the first and the last frame among them. `first`: the first ones.
    """
    if available <= wanted:
        return list(range(available))
    if pick == "first":
        return list(range(wanted))
    if pick == "ends" and wanted > 1:
        return [round(n * (available - 1) / (wanted - 1)) for n in range(wanted)]
    return [(2 * n + 1) * available // (2 * wanted) for n in range(wanted)]


def in_order(name: str) -> tuple[object, ...]:
    """A sorting key under which ``frame2.jpg`` comes before ``frame10.jpg``."""
    parts = _DIGITS.split(name)
    return (*((int(part), "") if n % 2 else (-1, part) for n, part in enumerate(parts)), name)
