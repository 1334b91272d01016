"""Front ends on other origins: those that are listed, and no others."""

import pytest
from web_serving import KEY, Serving

from bloom.base.errors import ConfigurationError
from bloom.web.cors import parse_origins

pytestmark = pytest.mark.anyio

FRONT_END = "https://app.example.org"
THINGS = "/api/runtime/things"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,x-runtime-api-key,idempotency-key",
}


def serving(**settings: str) -> Serving:
    return Serving(BLOOM_CORS_ORIGINS=f"{FRONT_END}, http://localhost:5173", **settings)


async def test_a_listed_origin_may_ask_without_a_key_and_then_call_with_one() -> None:
    async with serving().client(key=None) as client:
        asked = await client.options(THINGS, headers={"Origin": FRONT_END, **PREFLIGHT})
        called = await client.get(THINGS, headers={"Origin": FRONT_END, "X-Runtime-API-Key": KEY})
        refused = await client.get(THINGS, headers={"Origin": FRONT_END})
    assert asked.status_code == 200
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "x-runtime-api-key" in asked.headers["access-control-allow-headers"].lower()
    for answer, status in ((asked, 200), (called, 200), (refused, 401)):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == FRONT_END
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "RateLimit-Remaining" in called.headers["access-control-expose-headers"]
    assert "Origin" in called.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.org.evil.example",
        "http://app.example.org",
        "https://app.example.org:8443",
        "null",
        "https://APP.example.org",
    ],
)
async def test_other_origins_are_told_nothing(origin: str) -> None:
    async with serving().client() as client:
        asked = await client.options(THINGS, headers={"Origin": origin, **PREFLIGHT, "X-Runtime-API-Key": ""})
        called = await client.get(THINGS, headers={"Origin": origin})
    assert asked.status_code == 401 and called.status_code == 200
    for answer in (asked, called):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_pages_are_not_for_other_origins_and_without_a_list_nothing_is() -> None:
    async with serving().client() as client:
        page = await client.get("/page", headers={"Origin": FRONT_END})
    async with Serving().client() as client:
        called = await client.get(THINGS, headers={"Origin": FRONT_END})
        asked = await client.options(THINGS, headers={"Origin": FRONT_END, **PREFLIGHT, "X-Runtime-API-Key": ""})
    assert asked.status_code == 401
    for answer in (page, called, asked):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_a_front_end_reads_why_it_was_refused_when_it_calls_too_often() -> None:
    async with serving(BLOOM_RATE_LIMIT="1/minute").client() as client:
        await client.get(THINGS)
        answer = await client.get(THINGS, headers={"Origin": FRONT_END})
    assert answer.status_code == 429 and answer.headers["access-control-allow-origin"] == FRONT_END


def test_origins_are_written_as_browsers_do() -> None:
    assert parse_origins("") == frozenset()
    assert parse_origins("HTTPS://App.Example.org:443,http://localhost:80, http://[::1]:5173") == {
        "https://app.example.org",
        "http://localhost",
        "http://[::1]:5173",
    }


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "null",
        "app.example.org",
        "https://app.example.org/",
        "https://*.example.org",
        "https://a.example:99999",
        "ftp://a.example",
        "https://user@a.example",
        "https://ä.example",
        "https://a.example https://b.example",
    ],
)
def test_what_is_no_exact_origin_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"BLOOM_CORS_ORIGINS must be .*https://app\.example\.org"):
        parse_origins(text)
