"""Calls of Membridge: what is tried again, what is refused, and that the key stays here."""

import gzip
import json
import socket
from dataclasses import replace

import membridge_stub as act
import pytest
from membridge_stub import Stub

from bloom.base.errors import Upstream
from bloom.upstream import client as client_module
from bloom.upstream.client import MAX_ANSWER_BYTES, MembridgeClient, without_key
from bloom.upstream.model import KeySource, Target

pytestmark = pytest.mark.anyio

KEY = "canary-5f0c-the-admin-key"


class Pauses:
    """Takes the place of waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def target(stub: Stub, key: str | None = KEY) -> Target:
    return Target(stub.url, key, KeySource.SAVED, True, 1)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def client(pauses: Pauses) -> MembridgeClient:
    return MembridgeClient(pause=pauses)


async def code_of(client: MembridgeClient, stub: Stub, **fields: str) -> str:
    """The code of the error that GET /projects ends in; it tells nothing of the key."""
    with pytest.raises(Upstream) as error:
        await client.call(replace(target(stub), **fields), "GET", "/projects")
    assert KEY not in repr(error.value.__dict__) and KEY not in str(error.value)
    return error.value.code


async def test_a_safe_call_is_tried_four_times_with_growing_pauses(
    client: MembridgeClient, membridge: Stub, pauses: Pauses
) -> None:
    membridge.behave("*", act.says({"error": "broken"}, 500))
    answer = await client.call(target(membridge), "GET", "/projects")
    assert answer.status == 500 and len(membridge.seen) == 4
    for pause, least in zip(pauses.seconds, (0.5, 1.0, 2.0), strict=True):
        assert least <= pause <= least * 1.3


async def test_a_call_that_works_in_the_end_is_answered(client: MembridgeClient, membridge: Stub) -> None:
    def act_once(stub: Stub, connection: socket.socket, seen: act.Seen) -> None:
        stub.behave("*", None)

    membridge.behave("*", act_once)
    answer = await client.call(target(membridge), "GET", "/projects")
    assert answer.status == 200 and len(membridge.seen) == 2


@pytest.mark.parametrize("bad", [act.says({}, 500), act.closes])
async def test_a_call_that_changes_something_is_made_once(
    client: MembridgeClient, membridge: Stub, bad: act.Act
) -> None:
    membridge.behave("*", bad)
    try:
        await client.call(
            target(membridge), "POST", f"/projects/{act.CID}/leadership/select", {"primary_node_id": "pi"}
        )
    except Upstream as error:
        assert error.code == "membridge_unreachable"
    assert len(membridge.seen) == 1


@pytest.mark.parametrize("bad", [act.closes, act.closes_early, act.no_http])
async def test_a_connection_that_breaks_is_tried_again(client: MembridgeClient, membridge: Stub, bad: act.Act) -> None:
    membridge.behave("*", bad)
    assert await code_of(client, membridge) == "membridge_unreachable"
    assert len(membridge.seen) == 4


async def test_nobody_listens(client: MembridgeClient, membridge: Stub, pauses: Pauses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    assert await code_of(client, membridge, url=url) == "membridge_unreachable"
    assert len(pauses.seconds) == 3


@pytest.mark.parametrize("slow", [act.silent, act.drips])
async def test_the_time_of_a_call_is_bounded_however_it_is_spent(
    client: MembridgeClient, membridge: Stub, slow: act.Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT_SEC", 1.0)
    membridge.behave("*", slow)
    assert await code_of(client, membridge) == "membridge_timeout"
    assert len(membridge.seen) == 1


@pytest.mark.parametrize("to", ["/agents", "http://127.0.0.1:9/"])
async def test_a_redirect_is_not_followed(client: MembridgeClient, membridge: Stub, to: str) -> None:
    membridge.behave("/projects", act.redirects(to))
    assert await code_of(client, membridge) == "membridge_redirect"
    assert membridge.paths() == ["/projects"]


@pytest.mark.parametrize(
    "large",
    [
        act.raw(b'"' + b"x" * MAX_ANSWER_BYTES + b'"'),
        act.raw(b"x" * (MAX_ANSWER_BYTES + 1), 500),
        act.endless,
    ],
)
async def test_an_answer_over_5_mib_is_refused(client: MembridgeClient, membridge: Stub, large: act.Act) -> None:
    membridge.behave("*", large)
    assert await code_of(client, membridge) == "membridge_too_large"
    assert len(membridge.seen) == 1


async def test_an_answer_of_5_mib_is_taken(client: MembridgeClient, membridge: Stub) -> None:
    membridge.behave("*", act.raw(b'"' + b"x" * (MAX_ANSWER_BYTES - 2) + b'"'))
    assert len((await client.call(target(membridge), "GET", "/projects")).value) == MAX_ANSWER_BYTES - 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"<html>It works!</html>",
        b'{"status": ',
        b"[NaN]",
        b"[1e999]",
        b"[" * 10_000,
        b'"\\ud800"',
        b'"\xff"',
        b"[" + b"9" * 5000 + b"]",
    ],
)
async def test_what_is_not_json_is_refused(client: MembridgeClient, membridge: Stub, garbage: bytes) -> None:
    membridge.behave("*", act.raw(garbage))
    assert await code_of(client, membridge) == "membridge_not_json"


async def test_a_compressed_answer_is_not_unpacked(client: MembridgeClient, membridge: Stub) -> None:
    membridge.behave("*", act.raw(gzip.compress(b"[]"), 200, **{"Content-Encoding": "gzip"}))
    assert await code_of(client, membridge) == "membridge_not_json"
    assert membridge.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [101, 199, 600, 999])
async def test_a_status_that_is_none_is_refused(client: MembridgeClient, membridge: Stub, status: int) -> None:
    membridge.behave("*", act.says([], status))
    assert await code_of(client, membridge) in ("membridge_not_json", "membridge_unreachable")


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 429, 500, 503])
async def test_an_error_without_json_keeps_its_status(client: MembridgeClient, membridge: Stub, status: int) -> None:
    membridge.behave("*", act.raw(b"Internal Server Error", status))
    answer = await client.call(target(membridge), "GET", "/projects")
    assert (answer.status, answer.value) == (status, None)


async def test_the_key_is_shown_and_taken_out_of_what_comes_back(client: MembridgeClient, membridge: Stub) -> None:
    membridge.behave("*", act.echoes())
    answer = await client.call(target(membridge), "GET", "/projects")
    assert membridge.seen[0].key == KEY
    assert KEY not in json.dumps(answer.value) and "canary" not in json.dumps(answer.value)


async def test_a_cookie_is_not_sent_back(client: MembridgeClient, membridge: Stub) -> None:
    membridge.behave("/projects", act.says([], 200, **{"Set-Cookie": "session=1"}))
    for _ in range(2):
        await client.call(target(membridge), "GET", "/projects")
    assert [seen.headers.get("cookie") for seen in membridge.seen] == [None, None]


async def test_the_proxies_of_the_environment_do_not_see_the_key(
    client: MembridgeClient, membridge: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stub() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert (await client.call(target(membridge), "GET", "/projects")).status == 200
        assert proxy.seen == []


async def test_nobody_is_asked_without_a_configuration_or_with_a_key_that_cannot_be_read(
    client: MembridgeClient, membridge: Stub
) -> None:
    for bad, code in (
        (replace(target(membridge), configured=False), "membridge_not_configured"),
        (replace(target(membridge), key_source=KeySource.UNREADABLE, admin_key=None), "membridge_key_unreadable"),
    ):
        with pytest.raises(Upstream) as error:
            await client.call(bad, "GET", "/projects")
        assert error.value.code == code
    assert membridge.seen == []


@pytest.mark.parametrize(
    ("key", "value", "left"),
    [
        ("12345678901", {"n": 12345678901, "m": 1234567}, {"n": "********", "m": 1234567}),
        ("a", ["agent a", "a", True, 1], ["agent ********", "********", True, 1]),
        ("a.*b+long", ["a.*b+long", "axxb+long"], ["********", "axxb+long"]),
        (None, ["x"], ["x"]),
    ],
)
def test_a_key_is_hidden_whole_and_a_short_one_in_no_other_word(key: str | None, value: object, left: object) -> None:
    assert without_key(value, key) == left
