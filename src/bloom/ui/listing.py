"""Pages of long lists: where one begins, and the address of the next."""

from collections.abc import Sequence
from typing import TypeVar

from starlette.datastructures import QueryParams

from bloom.web.paging import decode_cursor, encode_cursor

PAGE_ROWS = 50

T = TypeVar("T")


def before_of(query: QueryParams) -> int | None:
    """The sort key behind which the page begins. Raises InvalidInput for a cursor that is none of ours."""
    cursor = query.get("cursor")
    return decode_cursor(cursor, int)[0] if cursor else None


def split(found: Sequence[T]) -> tuple[Sequence[T], bool]:
    """The rows to show of `PAGE_ROWS` + 1 that were asked for, and whether there are more."""
    return found[:PAGE_ROWS], len(found) > PAGE_ROWS


def cursor_after(last: int) -> str:
    """The cursor of the page behind the row with this sort key."""
    return encode_cursor(last)
