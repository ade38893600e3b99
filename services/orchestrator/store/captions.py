"""Captions kept in Redis, so that an image that was captioned once, in whatever session, moves no bytes again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.orchestrator.store.database import Database
from services.orchestrator.store.keys import caption_key


class CaptionCache:
    """Serialized captions by tenant, sha256 of the image, model and prompt version. They live `ttl_s` seconds."""

    def __init__(self, database: Database, ttl_s: int) -> None:
        self._database = database
        self._ttl_s = ttl_s

    async def get(self, tenant: str, model: str, prompt_version: str, sha256s: Sequence[str]) -> dict[str, bytes]:
        """What is kept of the images asked for, by sha256."""
        commands = [("GET", caption_key(tenant, sha256, model, prompt_version)) for sha256 in sha256s]
        values = await self._database.commands(commands)
        return {sha256: value for sha256, value in zip(sha256s, values, strict=True) if value is not None}

    async def put(self, tenant: str, model: str, prompt_version: str, captions: Mapping[str, bytes]) -> None:
        """Keeps captions, by sha256."""
        await self._database.commands(
            [
                ("SET", caption_key(tenant, sha256, model, prompt_version), value, "EX", self._ttl_s)
                for sha256, value in captions.items()
            ]
        )
