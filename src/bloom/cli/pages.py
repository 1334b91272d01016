"""Lists of the runtime that are read page by page."""

import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from bloom.base.errors import BloomError
from bloom.client import RuntimeClient

PAGE_SIZE = 200
_NEXT_LINK = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')


async def read_pages(
    client: RuntimeClient, path: str, wanted: Mapping[str, str | int] | None = None, *, limit: int | None = None
) -> list[Any]:
    """The first `limit` items (None: all) of the list at `path`, of those that are `wanted`."""
    found: list[Any] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        params = {**(wanted or {}), "limit": PAGE_SIZE if limit is None else min(PAGE_SIZE, limit - len(found))}
        if cursor is not None:
            params["cursor"] = cursor
        answer, headers = await client.request_with_headers("GET", path, params=params)
        if not isinstance(answer, list):
            raise BloomError("the runtime's answer is not understood", code="bad_answer")
        page = cast("list[Any]", answer)
        found += page
        following = next_cursor(headers.get("link", ""))
        if not page or following is None or following == cursor:
            break
        cursor = following
    return found if limit is None else found[:limit]


def next_cursor(link: str) -> str | None:
    """The cursor in the rel="next" target of a Link header (RFC 8288); only the cursor is used, never the address."""
    match = _NEXT_LINK.search(link)
    if match is None:
        return None
    return (parse_qs(urlsplit(match[1]).query).get("cursor") or [None])[0]
