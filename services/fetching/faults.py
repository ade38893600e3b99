"""What downloads and copies have to say alike: content that is not the expected one, and a full disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from services.fetching.progress import in_units
from services.fetching.sources import Item
from warmer.errors import DataLoss, ResourceExhausted

_SPARE = 64 << 20  # bytes that are left free on the disk


def wrong_sha256(item: Item, found: str) -> DataLoss:
    """What to say of content that is not the expected one; it has been removed."""
    return DataLoss(
        f"{item.path} has sha256 {found}, but {item.sha256} is expected; it was removed",
        reason="WRONG_SHA256",
        hint="fetch it again; if the sum stays, the source holds another file than the one that you expect",
    )


def check_space(folder: Path, wanted: int) -> None:
    """Raises ResourceExhausted (NO_SPACE) when the disk cannot take so many bytes more."""
    if wanted > 0 and shutil.disk_usage(folder).free < wanted + _SPARE:
        raise no_space(folder, wanted)


def no_space(folder: Path, wanted: int | None) -> ResourceExhausted:
    """What to say of a full disk. `wanted` is how many bytes more were needed, where that is known."""
    free = shutil.disk_usage(folder).free
    need = f": {in_units(wanted)} are needed," if wanted is not None else ":"
    return ResourceExhausted(
        f"the disk of {folder.parent} is full{need} {in_units(free)} are free",
        reason="NO_SPACE",
        hint="make room, or set WARMER_MODELS_DIR to a larger disk; then run it again: what has come is kept",
    )
