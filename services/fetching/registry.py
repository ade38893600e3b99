"""The models that are known by name: registry.toml, read and checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class KnownModel:
    """One entry of registry.toml, which explains each field. Fields that an entry leaves out are empty."""

    name: str
    kind: str
    about: str
    option: str
    licence: str
    licence_url: str
    accept_licence: bool = False
    gated: bool = False
    hub: str = ""
    revision: str = ""
    url: str = ""
    file: str = ""
    sha256: str = ""
    size: int = 0
    by_hand: str = ""

    @property
    def source(self) -> str:
        """Where it comes from when nobody says otherwise; empty if a person must get it."""
        return self.hub or self.url


@cache
def known_models() -> dict[str, KnownModel]:
    """All of them by name, in the order of the file."""
    text = Path(__file__).with_name("registry.toml").read_text(encoding="utf-8")
    models = [KnownModel(**entry) for entry in tomllib.loads(text)["model"]]
    return {model.name: model for model in models}
