"""The key layout in Redis, in one place.

Every key carries the tenant. All keys of one session share the hash tag ``{tenant:session}``, so that a Lua script may
touch them together on a cluster; the order of `SessionRef.keys` is the order of KEYS in every script.

=============================================  ======  ==============================================================
key                                            type    holds
=============================================  ======  ==============================================================
``warmer:{tenant:session}:session``            hash    the session's fields, its version, and counters of attempts
``warmer:{tenant:session}:rounds``             list    one serialized Round each, by index
``warmer:{tenant:session}:streamed``           hash    image id -> sha256 of every image that was streamed
``warmer:{tenant:session}:run``                hash    the running round: request, owner, lease, fence, partial result
``warmer:{tenant:session}:requests``           hash    request id -> where its events and its round are
``warmer:{tenant:session}:events``             stream  events of all rounds; entry id is ``attempt-sequence``
``warmer:{tenant}:sessions``                   zset    ``created_ms:session``, all scores 0: ordered by creation
``warmer:{tenant:create:digest}``              string  request id of a CreateSession -> the session that it made
``warmer:{tenant:caption:sha256}:model:ver``   string  a serialized Caption; expires
=============================================  ======  ==============================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import quote

DEFAULT_TENANT = "default"
_PARTS = ("session", "rounds", "streamed", "run", "requests", "events")


@dataclass(frozen=True)
class SessionRef:
    """Which session of which tenant."""

    tenant: str
    id: str

    @property
    def keys(self) -> list[str]:
        """The six keys of the session, in the order that the scripts expect."""
        return [f"warmer:{{{self.tenant}:{self.id}}}:{part}" for part in _PARTS]

    @property
    def events(self) -> str:
        """Key of the stream of events."""
        return f"warmer:{{{self.tenant}:{self.id}}}:events"

    @property
    def session(self) -> str:
        """Key of the hash of fields."""
        return f"warmer:{{{self.tenant}:{self.id}}}:session"

    @property
    def rounds(self) -> str:
        """Key of the list of rounds."""
        return f"warmer:{{{self.tenant}:{self.id}}}:rounds"


def index_key(tenant: str) -> str:
    """Key of the index of a tenant's sessions."""
    return f"warmer:{{{tenant}}}:sessions"


def creation_key(tenant: str, request_id: str) -> str:
    """Key that remembers which session a CreateSession made. Request ids are free text, hence the digest."""
    return f"warmer:{{{tenant}:create:{hashlib.sha256(request_id.encode()).hexdigest()}}}"


def caption_key(tenant: str, sha256: str, model: str, prompt_version: str) -> str:
    """Key of a cached caption."""
    return f"warmer:{{{tenant}:caption:{sha256}}}:{quote(model, safe='')}:{quote(prompt_version, safe='')}"
