"""Page sizes and opaque page tokens (https://google.aip.dev/158). A token holds the last id of the page before."""

import base64
import binascii
import json

from warmer.errors import InvalidArgument

_DEFAULT = 100
_MOST = 1000


def page_size(asked: int) -> int:
    """How many items go on a page. Raises InvalidArgument (BAD_PAGE_SIZE) for a negative number."""
    if asked < 0:
        raise InvalidArgument(
            f"the page size is {asked}", reason="BAD_PAGE_SIZE", field="page_size", hint="give 1 to 1,000, or 0"
        )
    return min(asked or _DEFAULT, _MOST)


def token_after(parent: str, id: str) -> str:
    """The token for the page after `id` in the list of `parent`."""
    return base64.urlsafe_b64encode(json.dumps([parent, id]).encode()).decode()


def id_before(token: str, parent: str) -> str:
    """The id that the page of this token comes after; empty for the first page.

    Raises InvalidArgument (BAD_PAGE_TOKEN) for a token that was not made for this list.
    """
    if not token:
        return ""
    try:
        made_for, id = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        made_for, id = None, None
    if made_for != parent or not isinstance(id, str):
        raise InvalidArgument(
            "the page token was not made for this list",
            reason="BAD_PAGE_TOKEN",
            field="page_token",
            hint="pass next_page_token of the page before, or nothing",
        )
    return id
