"""The packages of the extra `bench`, which are asked for only where they are needed."""

from __future__ import annotations

import importlib.util

from warmer.errors import FailedPrecondition


def require(*modules: str) -> None:
    """Raises FailedPrecondition (``PACKAGE_NOT_INSTALLED``) unless all the modules are installed; imports none."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise FailedPrecondition(
            f"this needs packages that are not installed: {', '.join(missing)}",
            reason="PACKAGE_NOT_INSTALLED",
            hint="pip install 'warmer[bench]'",
        )
