"""The tiny embedder as a whole process, written as a service's `__main__` is: nothing heavy is imported up here."""

import sys

from services.common.main import run_service


def load():
    import asyncio
    from pathlib import Path

    from tiny_embedder import TinyEmbedder, service

    from warmer.errors import NotFound, Unavailable

    async def warm() -> None:
        while not Path(sys.argv[1]).exists():  # the test makes the model "load"
            await asyncio.sleep(0.02)
        if Path(sys.argv[1]).read_text() == "broken":
            raise NotFound("the model file is gone", reason="MODEL_NOT_INSTALLED", hint="install it")
        if Path(sys.argv[1]).read_text() == "away":
            raise Unavailable("the model server cannot be reached", reason="MODEL_SERVER_UNREACHABLE")

    async def build(settings):
        return service(TinyEmbedder(settings), warm)

    return build


if __name__ == "__main__":
    sys.exit(run_service("embedder", load))
