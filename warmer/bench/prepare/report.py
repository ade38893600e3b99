"""What `prepare` did, and what is missing."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_WAYS = ("linked", "copied", "unpacked", "sampled", "there")
_SHOWN = 3


@dataclass
class Report:
    """What was put where. `missing` says in words what lacks and where it is to be had; `notes` what is good to know.

    Attributes:
        kind, target: as given.
        folder: the folder of the images, for `warmer index`.
        placed: number of images by way: linked, copied, unpacked, sampled (frames of videos), there (before).
        captions, images: number of captions written, and of images (or videos) that they are of.
    """

    kind: str
    target: Path
    folder: Path
    placed: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    images: int = 0
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    def lack(self, what: str, names: list[str], where: str) -> None:
        """Adds that files are missing: how many, the first of them, and where they are to be had."""
        if names:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            self.missing.append(f"{len(names):,} {what} ({shown}). {where}")

    def lines(self) -> list[str]:
        """The report for people, a fact a line."""
        ways = ", ".join(f"{self.placed[way]:,} {way}" for way in _WAYS if self.placed[way])
        return [
            f"{self.kind} in {self.target}",
            f"images    {self.placed.total():,}{f' ({ways})' if ways else ''}",
            f"captions  {self.captions:,} of {self.images:,} {'videos' if self.kind == 'msrvtt' else 'images'}",
            *(f"note: {note}" for note in self.notes),
            *(f"missing: {item}" for item in self.missing),
            *(
                [f"next: warmer index {shlex.quote(str(self.folder))} --collection {self.kind}"]
                if self.placed.total()
                else []
            ),
        ]
