"""The control plane's client: what it believes, and what it never tells."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bloom.base.errors import ConfigurationError
from bloom.membridge.schemas import NodeHeartbeat
from bloom.sync.errors import MembridgeRefused, MembridgeUnreachable, SyncError
from bloom.sync.service_client import MembridgeClient

pytestmark = pytest.mark.anyio

KEY = "the-admin-key-of-membridge"
BEAT = NodeHeartbeat(node_id="a", canonical_id="0123456789abcdef")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client_of(answer: Callable[[httpx.Request], httpx.Response]) -> MembridgeClient:
    return MembridgeClient("http://membridge.example:8000", KEY, transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"ok": True, "role": "king", "canonical_id": "x"}),
        httpx.Response(200, content=b"[" * 6_000_000),
        httpx.Response(204),
        httpx.Response(302, headers={"Location": "http://elsewhere.example/"}),
        httpx.Response(404, text="<html>Not Found"),
        httpx.Response(404, json={"error": "There is nothing under this path", "code": "not_found"}),
        httpx.Response(405, json={"detail": "Method Not Allowed"}),
        httpx.Response(500, json={"error": KEY}),
        httpx.Response(502, text="bad gateway"),
    ],
)
async def test_an_answer_that_is_none_is_no_standing(answer: httpx.Response) -> None:
    asked: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return answer

    async with client_of(respond) as client:
        with pytest.raises(MembridgeUnreachable) as caught:
            await client.heartbeat(BEAT)
    assert KEY not in caught.value.message
    assert asked == ["membridge.example"]


async def test_a_refusal_keeps_its_code_and_status() -> None:
    async with client_of(lambda _: httpx.Response(409, json={"error": "moved", "code": "remote_moved"})) as client:
        with pytest.raises(MembridgeRefused) as caught:
            await client.heartbeat(BEAT)
    assert (caught.value.code, caught.value.status, caught.value.message) == ("remote_moved", 409, "moved")


async def test_a_refused_field_is_named() -> None:
    error: dict[str, Any] = {"formErrors": [], "fieldErrors": {"node_id": ["Must have at most 128 characters"]}}
    async with client_of(lambda _: httpx.Response(400, json={"error": error, "code": "invalid"})) as client:
        with pytest.raises(MembridgeRefused, match="node_id: Must have at most 128 characters"):
            await client.heartbeat(BEAT)


@pytest.mark.parametrize(
    "error", [httpx.ConnectError(KEY), httpx.ReadTimeout(KEY), httpx.RemoteProtocolError(KEY), httpx.ProxyError(KEY)]
)
async def test_a_connection_that_fails_is_said_without_its_text(error: httpx.HTTPError) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    async with client_of(fail) as client:
        with pytest.raises(SyncError) as caught:
            await client.health()
    assert caught.value.code == "unreachable"
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    ("url", "key"), [("ftp://x", "k"), ("http://u:p@x", "k"), ("", "k"), ("http://x", "k\n"), ("http://x", "é")]
)
def test_an_unusable_address_or_key_is_named_by_its_variable(url: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match="MEMBRIDGE_"):
        MembridgeClient(url, key)
