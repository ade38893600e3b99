"""Where the services are, from arguments and environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from warmer.channel import checked_target, neighbour

DEFAULT_TARGET = "localhost:50050"
TARGET_VARIABLE = "WARMER_TARGET"
EMBEDDER_VARIABLE = "WARMER_EMBEDDER_TARGET"
CAPTIONER_VARIABLE = "WARMER_CAPTIONER_TARGET"
REWRITER_VARIABLE = "WARMER_REWRITER_TARGET"
_CAPTIONER_OFFSET = 2
_REWRITER_OFFSET = 3


@dataclass(frozen=True, slots=True)
class Targets:
    """gRPC targets of the two services that a client talks to."""

    orchestrator: str
    embedder: str

    @classmethod
    def resolve(cls, target: str | None, embedder: str | None) -> Targets:
        """The arguments, else the environment, else the default; the embedder's also from the orchestrator's."""
        orchestrator = checked_target(target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET)
        if not embedder and not (target or "").startswith("unix"):
            # A socket named by the caller serves all; a variable that points elsewhere must not be mixed in.
            embedder = os.environ.get(EMBEDDER_VARIABLE)
        return cls(orchestrator, checked_target(embedder or neighbour(orchestrator)))


def captioner_target(target: str | None, captioner: str | None) -> str:
    """The captioner's gRPC target: the argument, else the environment, else from the orchestrator's."""
    return _model_target(target, captioner, CAPTIONER_VARIABLE, _CAPTIONER_OFFSET)


def rewriter_target(target: str | None, rewriter: str | None) -> str:
    """The rewriter's, in the same way."""
    return _model_target(target, rewriter, REWRITER_VARIABLE, _REWRITER_OFFSET)


def _model_target(target: str | None, given: str | None, variable: str, offset: int) -> str:
    if not given and not (target or "").startswith("unix"):
        given = os.environ.get(variable)
    if given:
        return checked_target(given)
    orchestrator = checked_target(target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET)
    return neighbour(orchestrator, offset)
