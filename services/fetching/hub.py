"""The Hugging Face hub: which files a repository has at a commit, their sums, and what its refusals mean.

huggingface_hub finds the files and their sums; they are downloaded by `downloads`, as any other URL. Its own download
(2.4) gives up what it has of a file when it is interrupted, and files of 5 GB are what gets interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from services.fetching.choosing import choose
from services.fetching.sources import Item, Plan
from warmer.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, WarmerError

_DEFAULT_VARIABLE = "HF_TOKEN"


def look_into(repository: str, revision: str, patterns: Sequence[str], token_env: str) -> Plan:
    """The files of a repository at a revision (a commit, branch or tag; the newest if empty).

    Raises PermissionDenied (GATED), NotFound (SOURCE_NOT_FOUND), Unavailable (HUB_UNREACHABLE), or as `choose`.
    """
    from huggingface_hub import HfApi, hf_hub_url

    token = _token(token_env)
    try:
        found = HfApi(token=token).model_info(repository, revision=revision or None, files_metadata=True)
    except Exception as error:  # the hub's client also raises what its HTTP library raises, which differs by version
        raise _translated(error, repository, revision, token_env) from error
    commit = str(found.sha)
    siblings = {str(sibling.rfilename): sibling for sibling in found.siblings or ()}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    items = [
        Item(
            name,
            hf_hub_url(repository, name, revision=commit),
            siblings[name].size,
            lfs.sha256 if (lfs := siblings[name].lfs) else "",
            headers,
        )
        for name in choose(siblings, patterns)
    ]
    return Plan("hub", repository, commit, tuple(items))


def _token(variable: str) -> str | bool:
    """The token of the variable; without one what `hf auth login` saved, or none."""
    value = os.environ.get(variable or _DEFAULT_VARIABLE, "").strip()
    if variable and not value:
        raise InvalidArgument(
            f"the environment has no {variable}", reason="NO_TOKEN", hint=f"export {variable}=...", field="token_env"
        )
    if value:
        return value
    from huggingface_hub import get_token

    return get_token() or False


def _translated(error: Exception, repository: str, revision: str, token_env: str) -> WarmerError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFound(
            f"{repository} on the hub has no revision {revision}",
            reason="SOURCE_NOT_FOUND",
            hint="choose another with --revision; --revision main is the newest",
        )
    if isinstance(error, errors.GatedRepoError) or status in (401, 403):
        return gated(repository, token_env)
    if isinstance(error, errors.HFValidationError):
        return InvalidArgument(str(error), reason="BAD_SOURCE", hint="hub ids look like owner/name", field="from")
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return NotFound(
            f"the hub has no model {repository}, or keeps it private",
            reason="SOURCE_NOT_FOUND",
            hint="check the name; a private one needs a token, see --token-env",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unavailable(
            "HF_HUB_OFFLINE forbids to ask the hub",
            reason="HUB_OFFLINE",
            hint="unset it, or bring the model's folder with --from FOLDER",
        )
    return Unavailable(
        f"the hub cannot be reached: {_first_line(error)}",
        reason="HUB_UNREACHABLE",
        hint="check network and proxy (HTTPS_PROXY, SSL_CERT_FILE), HF_ENDPOINT for a mirror, or use --from FOLDER",
    )


def gated(repository: str, token_env: str) -> PermissionDenied:
    """What to tell somebody whom the hub does not let in."""
    variable = token_env or _DEFAULT_VARIABLE
    return PermissionDenied(
        f"the hub does not hand out {repository} to you",
        reason="GATED",
        hint=f"accept its licence on its page at the hub, make a token that may read it, then export {variable}=... "
        "and run this again; or check the name, if it should be open to all",
    )


def _first_line(error: Any) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
