"""Warmer: interactive image search. Describe a photo, point at what is close, say what differs, get warmer.

::

    from warmer import Client

    with Client() as client:                                  # WARMER_TARGET, or localhost:50050
        client.collections.create("photos")
        client.collections.add_folder("photos", "my/photos")
        session = client.sessions.create("photos")
        page = session.search("a dog on grass")
        while not (found := input(f"{[hit.image_id for hit in page.hits]}\\nFound it? Its id: ")):
            page = session.refine(relevant=input("Which one is close? ") or (), comment=input("What differs? "))
        session.finish(found=found)

Start the services with ``warmer up``. :class:`Client` blocks; :class:`warmer.aio.Client` is for asyncio. Results are
the frozen dataclasses of :mod:`warmer.types`, errors the tree in :mod:`warmer.errors`.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from warmer import errors, types
from warmer.channel import Tls
from warmer.client import Client, Session
from warmer.errors import WarmerError

if TYPE_CHECKING:
    from warmer import aio

__version__ = "0.1.0"
__all__ = ["Client", "Session", "Tls", "WarmerError", "__version__", "aio", "errors", "types"]


def __getattr__(name: str) -> ModuleType:
    """Imports ``warmer.aio`` at its first use: blocking programs need no asyncio."""
    if name == "aio":
        return import_module("warmer.aio")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
