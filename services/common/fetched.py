"""Where fetched models lie. It imports nothing heavy: the commands that only list or remove them must start at once."""

from pathlib import Path

from services.common.settings import Settings

# Not *.json: `checkpoints.fingerprint` reads every .json of a checkpoint, and this file holds the time of the fetch, so
# that the same model fetched on two machines would have two identities.
LOCK_NAME = "warmer.lock"


def models_folder(settings: Settings) -> Path:
    """The folder that holds a folder for each fetched model."""
    return settings.models_dir / "fetched"


def fetched_folder(settings: Settings, name: str) -> Path:
    """Where `warmer models fetch` puts the model of this name; a slash, as hub ids have one, becomes two dashes."""
    return models_folder(settings) / name.replace("/", "--")
