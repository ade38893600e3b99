"""Draws the rounds of a hunt on one picture: a row for each round, marks as frames, what was said above."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

EDGE, GAP, HEADER = 150, 12, 66
BACKGROUND, INK, QUIET = "white", "#1b1b1f", "#5c5f66"
RELEVANT, IRRELEVANT, FOUND = "#1a7f37", "#c62828", "#d48806"


@dataclass(frozen=True)
class Row:
    """One round: two lines of text, and the hits that were shown with the colour of their frame, if any."""

    title: str
    detail: str
    image_ids: Sequence[str]
    frames: dict[str, str]


def draw(rows: Sequence[Row], load: Callable[[str], bytes], path: Path) -> None:
    """Writes the sheet as PNG. `load` gives the bytes of an image file for an image id."""
    from PIL import Image, ImageDraw

    columns = max(len(row.image_ids) for row in rows)
    width = GAP + max(columns, 5) * (EDGE + GAP)
    height = GAP + len(rows) * (HEADER + EDGE + 2 * GAP)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    thumbnails = {i: _thumbnail(load(i)) for i in {i for row in rows for i in row.image_ids}}
    top = GAP
    for row in rows:
        _text(pen, (GAP, top), row.title, size=19, colour=INK, width=width)
        _text(pen, (GAP, top + 27), row.detail, size=14, colour=QUIET, width=width)
        for column, image_id in enumerate(row.image_ids):
            left = GAP + column * (EDGE + GAP)
            sheet.paste(thumbnails[image_id], (left, top + HEADER))
            if colour := row.frames.get(image_id):
                box = (left - 3, top + HEADER - 3, left + EDGE + 2, top + HEADER + EDGE + 2)
                pen.rectangle(box, outline=colour, width=5)
        top += HEADER + EDGE + 2 * GAP
    sheet.save(path, optimize=True)


def _thumbnail(content: bytes) -> Image.Image:
    """A square cut from the middle: a row of equal squares is easier to scan."""
    from PIL import Image, ImageOps

    return ImageOps.fit(Image.open(io.BytesIO(content)).convert("RGB"), (EDGE, EDGE), Image.Resampling.LANCZOS)


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, *, size: int, colour: str, width: int) -> None:
    """Text on at most two lines of the sheet's width; what does not fit ends with an ellipsis."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= width - 2 * GAP:
            lines[-1] = longer
        elif len(lines) == 2:
            lines[-1] = f"{lines[-1]} ..."
            break
        else:
            lines.append(word)
    pen.multiline_text(at, "\n".join(lines), fill=colour, font=font, spacing=3)
