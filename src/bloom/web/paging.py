"""Pages of long lists by keyset: an opaque cursor, a limit and the `Link` header (RFC 8288)."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, overload
from urllib.parse import urlencode

from fastapi import Query
from pydantic_core import from_json, to_json
from starlette.requests import Request

from bloom.base.errors import InvalidInput
from bloom.base.text import is_storable

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_LONGEST_CURSOR = 1024
_BIGINT = 1 << 63

PageLimit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
"""A `limit` of a list, 1 to 1000: `limit: PageLimit = DEFAULT_LIMIT`."""

A = TypeVar("A", int, str)
B = TypeVar("B", int, str)
C = TypeVar("C", int, str)


def encode_cursor(*values: int | str) -> str:
    """An opaque cursor for the sort key `values` of the last row of a page."""
    return base64.urlsafe_b64encode(to_json(values)).rstrip(b"=").decode()


@overload
def decode_cursor(cursor: str, first: type[A], /) -> tuple[A]: ...
@overload
def decode_cursor(cursor: str, first: type[A], second: type[B], /) -> tuple[A, B]: ...
@overload
def decode_cursor(cursor: str, first: type[A], second: type[B], third: type[C], /) -> tuple[A, B, C]: ...


def decode_cursor(cursor: str, *kinds: type[Any]) -> tuple[Any, ...]:
    """The sort key in `cursor`, its values of the given kinds (int, of 64 bits, or str).

    Raises InvalidInput on the field `cursor` for anything that `encode_cursor` did not make.
    """
    values = _decode(cursor)
    if len(values) != len(kinds) or any(not _fits(value, kind) for value, kind in zip(values, kinds, strict=True)):
        raise _bad_cursor()
    return tuple(values)


def next_link(request: Request, cursor: str) -> str:
    """The value of the `Link` header that leads to the next page: the same query with `cursor`.

    The reference is relative to the request (RFC 3986, section 5.2), so it holds behind any proxy and under any path.
    """
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f'<?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'


def _decode(cursor: str) -> Sequence[Any]:
    if not 0 < len(cursor) <= _LONGEST_CURSOR:
        raise _bad_cursor()
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values: Any = from_json(base64.b64decode(padded, altchars=b"-_", validate=True), allow_inf_nan=False)
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None
    return values if isinstance(values, list) else ()  # pyright: ignore[reportUnknownVariableType]


def _fits(value: Any, kind: type[Any]) -> bool:
    if type(value) is not kind:
        return False
    return is_storable(value) if isinstance(value, str) else -_BIGINT <= value < _BIGINT


def _bad_cursor() -> InvalidInput:
    text = "Must be a cursor from the Link header of the page before, or left out"
    return InvalidInput(text, fields={"cursor": [text]})
