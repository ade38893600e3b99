"""Prompts are data files with a version, because a changed prompt is a changed model: caches and studies name it.

The processor's chat template puts the image before the prompt's words and marks whose turn it is.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from warmer.errors import FailedPrecondition

_FOLDER = Path(__file__).parent
DEFAULT = "sentence.v1"


@dataclass(frozen=True)
class Prompt:
    """What a model is asked about an image."""

    version: str
    text: str


def load_prompt(name: str) -> Prompt:
    """The prompt in the data file `<name>.toml` of this folder; an empty name means DEFAULT.

    Raises FailedPrecondition (reason PROMPT_NOT_FOUND or BAD_PROMPT).
    """
    known = sorted(file.stem for file in _FOLDER.glob("*.toml"))
    name = name or DEFAULT
    if name not in known:
        raise FailedPrecondition(
            f"there is no prompt {name!r} for captions", reason="PROMPT_NOT_FOUND", hint=f"known: {', '.join(known)}"
        )
    return read_prompt(_FOLDER / f"{name}.toml")


def read_prompt(path: Path) -> Prompt:
    """The prompt in a TOML file. Raises FailedPrecondition (reason BAD_PROMPT)."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        version, text = data["version"], data["text"].strip()
        if not (isinstance(version, str) and version and text):
            raise ValueError("version and text must be words")
    except (OSError, AttributeError, KeyError, ValueError) as error:  # TOMLDecodeError is a ValueError
        raise FailedPrecondition(f"the prompt {path.name} cannot be read: {error!r}", reason="BAD_PROMPT") from error
    return Prompt(version, text)
