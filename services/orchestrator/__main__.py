"""Runs the orchestrator: `python -m services.orchestrator`."""

import sys

from services.common.main import run_service
from services.common.server import Build


def _build() -> Build:
    from services.orchestrator.service import build

    return build


if __name__ == "__main__":
    sys.exit(run_service("orchestrator", _build))
