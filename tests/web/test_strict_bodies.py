"""Whatever is sent as a body, the worst answer is a 400."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_serving import Serving

from bloom.base.errors import InvalidInput
from bloom.web.bodies import parse_json

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b"[" * 100_000,
        b'{"name": NaN}',
        b'{"name": -Infinity}',
        b'{"name": "\\ud800"}',
        b'{"name": "\\udc00"}',
        b'{"name": "\xff\xfe"}',
        b"\x00",
        b'{"name": "x", "extra": ' + b"9" * 5000 + b"}",
        b'{"name": "x",}',
        "{}".encode("utf-16"),
    ],
)
async def test_what_is_not_json_is_invalid_json(body: bytes) -> None:
    async with Serving().client() as client:
        response = await client.post("/api/runtime/things", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 400 + b".5"])
async def test_a_number_beyond_a_double_is_invalid_wherever_it_stands(number: bytes) -> None:
    body = b'{"name": "x", "extra": [{"deep": ' + number + b"}]}"
    async with Serving().client() as client:
        response = await client.post("/api/runtime/things", content=body)
    assert (response.status_code, response.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize("kind", [None, "application/json", "text/plain", "application/x-www-form-urlencoded", "x"])
async def test_a_body_is_json_whatever_its_content_type_says(kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    async with Serving().client() as client:
        response = await client.post("/api/runtime/things", content=b'{"name": "x"}', headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize("body", [b"", b" \n"])
async def test_an_empty_body_names_each_missing_field(body: bytes) -> None:
    async with Serving().client() as client:
        response = await client.post("/api/runtime/things", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["fieldErrors"] == {"name": ["Required"]}


async def test_an_optional_body_may_be_left_out() -> None:
    async with Serving().client() as client:
        without = await client.post("/api/runtime/things/t/options")
        empty = await client.post("/api/runtime/things/t/options", json={})
    assert (without.json(), empty.json()) == ({"given": False}, {"given": True})


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_a_value_or_invalid_input(body: bytes) -> None:
    try:
        parse_json(body)
    except InvalidInput as error:
        assert error.code in ("invalid", "invalid_json")
