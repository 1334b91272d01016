"""Parameters and answers that the routes of several slices share."""

from typing import Annotated, Any

from fastapi import Depends, Request, Response

from bloom.base.text import is_storable
from bloom.web.answers import JsonAnswer
from bloom.web.auth import Principal, current_principal
from bloom.web.paging import decode_cursor, encode_cursor, next_link

LONGEST_ID = 512


# Dependencies are coroutines: the framework sends plain functions to a thread, on every call.


async def _before(cursor: str | None = None) -> int | None:
    return None if cursor is None else decode_cursor(cursor, int)[0]


async def _caller(request: Request) -> Principal:
    return current_principal(request)


Before = Annotated[int | None, Depends(_before)]
"""The `cursor` of a page: the sort key of the last row of the page before."""

Caller = Annotated[Principal, Depends(_caller)]
"""Who calls."""


def can_be_id(text: str) -> bool:
    """Whether anything can have this id; what cannot is not looked up."""
    return len(text) <= LONGEST_ID and is_storable(text)


def page_answer(request: Request, rows: list[dict[str, Any]], *, more: bool, last: int | None) -> Response:
    """A list as JSON; where there is more, the `Link` header leads to the page after the sort key `last`."""
    answer = JsonAnswer(rows)
    if more and last is not None:
        answer.headers["Link"] = next_link(request, encode_cursor(last))
    return answer
