"""Cursors and links of long lists."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Scope

from bloom.base.errors import InvalidInput
from bloom.web.paging import decode_cursor, encode_cursor, next_link

BIGINTS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@given(BIGINTS, TEXTS)
def test_a_cursor_comes_back_as_it_was(number: int, text: str) -> None:
    assert decode_cursor(encode_cursor(number, text), int, str) == (number, text)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense!",
        "ü",
        "A" * 2000,
        "AAAAA",
        encoded("{}"),
        encoded("[1]"),
        encoded('["x",1]'),
        encoded("[true,1]"),
        encoded('[1,"\\u0000"]'),
        encoded('[1.5,"x"]'),
        encoded(f'[{2**63},"x"]'),
        encoded("[" * 300),
        encoded('[null,"x"]'),
    ],
)
def test_a_bad_cursor_is_invalid_on_its_field(cursor: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_cursor(cursor, int, str)
    assert list(caught.value.fields) == ["cursor"]


@given(st.text(max_size=60))
def test_no_text_makes_decoding_fail_in_another_way(cursor: str) -> None:
    try:
        decode_cursor(cursor, int, str)
    except InvalidInput as error:
        assert "cursor" in error.fields


def test_the_link_keeps_the_query_and_is_relative() -> None:
    scope: Scope = {
        "type": "http",
        "query_string": b"status=queued&limit=2&cursor=old&q=a%26b%3E",
        "headers": [],
        "path": "/",
    }
    assert next_link(Request(scope), "new") == '<?status=queued&limit=2&q=a%26b%3E&cursor=new>; rel="next"'
