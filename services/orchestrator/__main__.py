"""Starts the orchestrator: `python -m services.orchestrator`. `.env.example` lists its settings."""

import sys
from typing import TYPE_CHECKING

from services.common.main import run_service

if TYPE_CHECKING:
    from services.common.server import Build


def load_build() -> "Build":
    """Imports the service, once the thread budget is set."""
    from services.orchestrator.service import build

    return build


if __name__ == "__main__":
    sys.exit(run_service("orchestrator", load_build))
