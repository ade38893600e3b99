"""The command lines and settings of docs/models.md exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from services.common.settings import ENV_PREFIX, Settings
from services.fetching.registry import known_models
from warmer.cli import app

TEXT = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ *(?:[A-Z_]+=\S+ )*warmer (.*?)(?:#.*)?$", TEXT.replace("\\\n", " "), re.MULTILINE)


def test_settings() -> None:
    named = set(re.findall(rf"{ENV_PREFIX}([A-Z_]+)", TEXT))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("line", sorted(set(COMMANDS)))
def test_commands(line: str) -> None:
    command: object = typer.main.get_command(app)
    words = line.split()
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
    assert set(re.findall(r"(?<!\S)--[a-z0-9-]+", line)) <= options
    if line.startswith("models fetch") and not re.search(r"--from|NAME", line):
        assert words[0] in known_models() or "/" in words[0]


def test_every_known_model_is_named() -> None:
    assert [name for name in known_models() if name not in TEXT] == []
