"""Who the client is behind a proxy, and when it is sent to https."""

import pytest
from web_serving import Serving

from bloom.base.errors import ConfigurationError
from bloom.web.proxies import parse_trusted_proxies

pytestmark = pytest.mark.anyio


async def seen_client(peer: str, forwarded: list[str], **settings: str) -> str:
    headers = [("X-Forwarded-For", value) for value in forwarded]
    async with Serving(**settings).client(peer=peer) as client:
        return (await client.get("/page", headers=headers)).json()["client"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["1.2.3.4", "203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["1.2.3.4, 203.0.113.9, 127.0.0.1"], "203.0.113.9"),
        ("127.0.0.1", ["[2001:db8::5]:443"], "2001:db8::5"),
        ("127.0.0.1", ["2001:db8::5"], "2001:db8::5"),
        ("127.0.0.1", ["203.0.113.9:51234"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, nonsense"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["," * 5000], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        ("2001:db8::1", ["203.0.113.9"], "2001:db8::1"),
    ],
)
async def test_the_client_is_the_right_most_address_that_is_no_trusted_proxy(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert await seen_client(peer, forwarded) == client


async def test_trusted_proxies_may_be_blocks() -> None:
    settings = {"BLOOM_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::/32"}
    assert await seen_client("10.1.2.3", ["203.0.113.9, 2001:db8::7"], **settings) == "203.0.113.9"
    assert await seen_client("127.0.0.1", ["203.0.113.9"], **settings) == "127.0.0.1"


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "10.0.0.0/64", "127.0.0.1 ::1"])
def test_a_bad_list_of_proxies_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="BLOOM_TRUSTED_PROXIES"):
        parse_trusted_proxies(text)


def test_no_proxy_at_all_can_be_said() -> None:
    assert parse_trusted_proxies("none") == ()


async def test_in_production_a_request_over_plain_http_is_sent_to_https() -> None:
    async with Serving(BLOOM_ENV="production").client(peer="127.0.0.1") as client:
        response = await client.post(
            "/api/runtime/things%20x?a=b%20c&d",
            headers={"X-Forwarded-Proto": "http", "Host": "bloom.example:8443"},
        )
    assert response.status_code == 301
    assert response.headers["location"] == "https://bloom.example:8443/api/runtime/things%20x?a=b%20c&d"


@pytest.mark.parametrize(
    ("settings", "peer", "proto"),
    [
        ({"BLOOM_ENV": "production"}, "127.0.0.1", "https"),
        ({"BLOOM_ENV": "production"}, "127.0.0.1", "https, http"),
        ({"BLOOM_ENV": "production"}, "127.0.0.1", None),
        ({"BLOOM_ENV": "production"}, "203.0.113.9", "http"),
        ({}, "127.0.0.1", "http"),
    ],
)
async def test_nothing_else_is_sent_there(settings: dict[str, str], peer: str, proto: str | None) -> None:
    headers = {} if proto is None else {"X-Forwarded-Proto": proto}
    async with Serving(**settings).client(peer=peer) as client:
        assert (await client.get("/page", headers=headers)).status_code == 200


async def test_the_scheme_is_the_clients_when_a_trusted_proxy_says_so() -> None:
    headers = {"X-Forwarded-Proto": "https"}
    async with Serving().client(peer="127.0.0.1") as near, Serving().client(peer="203.0.113.9") as far:
        assert (await near.get("/page", headers=headers)).json()["scheme"] == "https"
        assert (await far.get("/page", headers=headers)).json()["scheme"] == "http"


@pytest.mark.parametrize("host", ["evil.example/path", "a b", "x@y", "[::1", ""])
async def test_nobody_is_sent_to_a_strange_host(host: str) -> None:
    async with Serving(BLOOM_ENV="production").client(peer="127.0.0.1") as client:
        response = await client.get("/page", headers={"X-Forwarded-Proto": "http", "Host": host})
    assert response.status_code == 400
