"""Who is let in, with a key and without one."""

from typing import Any

import pytest
from web_serving import KEY, Serving

from bloom.web.auth import Principal, Role
from bloom.web.development import is_loopback_host, is_loopback_origin
from bloom.web.install import install_web

pytestmark = pytest.mark.anyio


async def test_the_key_makes_its_holder_the_admin() -> None:
    async with Serving().client() as client:
        response = await client.get("/api/runtime/whoami")
    assert response.json() == {"name": "admin", "role": "admin"}


@pytest.mark.parametrize(
    "key", [None, b"", b"wrong", KEY[:-1].encode(), KEY.upper().encode(), b"\xff\xfe", b"k" * 9999]
)
async def test_no_key_or_a_wrong_one_is_unauthorized(key: bytes | None) -> None:
    headers = {} if key is None else {b"X-Runtime-API-Key": key}
    async with Serving().client(key=None) as client:
        response = await client.get("/api/runtime/whoami", headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")


async def test_a_key_beyond_ascii_works_as_utf_8() -> None:
    serving = Serving(RUNTIME_API_KEY="schlüssel")
    async with serving.client(key=None) as client:
        response = await client.get("/api/runtime/whoami", headers={b"X-Runtime-API-Key": "schlüssel".encode()})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/runtime/health", 200),
        ("POST", "/api/runtime/test-connection", 200),
        ("GET", "/page", 200),
        ("POST", "/api/runtime/health", 401),
        ("GET", "/api/runtime/test-connection", 401),
        ("GET", "/api/runtime/health/", 401),
        ("GET", "/api/runtime", 401),
        ("GET", "/api/membridge/projects", 401),
        ("GET", "/api/runtime/nowhere", 401),
        ("GET", "/api%2Fruntime/things", 401),
        ("OPTIONS", "/api/runtime/things", 401),
    ],
)
@pytest.mark.parametrize("root", ["", "/bloom"])
async def test_without_a_key_only_the_open_paths_answer(method: str, path: str, status: int, root: str) -> None:
    async with Serving().client(key=None, root=root) as client:
        response = await client.request(method, root + path)
    assert response.status_code == status


class Named:
    async def find(self, presented: bytes) -> Principal | None:
        return Principal("ci", Role.ADMIN) if presented == b"named" else None

    async def find_subject(self, subject: str) -> Principal | None:
        return None


async def test_another_key_ring_can_be_plugged_in() -> None:
    serving = Serving()
    serving.app.user_middleware.clear()
    install_web(serving.app, serving.settings, keys=Named())
    async with serving.client(key="named") as client:
        assert (await client.get("/api/runtime/whoami")).json()["name"] == "ci"
        assert (await client.get("/api/runtime/whoami", headers={"X-Runtime-API-Key": KEY})).status_code == 401


def development(**kwargs: Any) -> Any:
    return Serving(RUNTIME_API_KEY=None).client(key=None, **kwargs)


async def test_without_a_configured_key_the_caller_is_local() -> None:
    async with development() as client:
        response = await client.get("/api/runtime/whoami")
    assert response.json() == {"name": "local", "role": "admin"}


@pytest.mark.parametrize("path", ["/api/runtime/things", "/page", "/api/runtime/health"])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.0.2.1:5000", "127.0.0.1.evil", ""])
async def test_development_mode_answers_to_loopback_names_only(host: str, path: str) -> None:
    async with development() as client:
        response = await client.get(path, headers={"Host": host})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:5000", None])
async def test_development_mode_takes_writes_from_pages_of_this_machine(origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    async with development() as client:
        response = await client.post("/api/runtime/things", json={"name": "x"}, headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize("path", ["/api/runtime/things", "/form"])
@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://localhost.evil.example", "", "file://"])
async def test_development_mode_takes_no_writes_from_other_pages(origin: str, path: str) -> None:
    async with development() as client:
        response = await client.post(path, json={"name": "x"}, headers={"Origin": origin})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; a=b"])
async def test_development_mode_wants_json_where_there_is_a_body(kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    async with development() as client:
        response = await client.post("/api/runtime/things", content=b'{"name": "x"}', headers=headers)
        without = await client.post("/api/runtime/workers/w/claim", headers=headers)
        page = await client.post("/form", content=b"a=b", headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert (without.status_code, page.status_code) == (200, 200)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"]
)
async def test_development_mode_knows_json_by_any_of_its_names(kind: str) -> None:
    async with development() as client:
        response = await client.post(
            "/api/runtime/things",
            content=b'{"name": "x"}',
            headers={"Content-Type": kind, "Origin": "http://localhost"},
        )
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("127.0.0.1:5000", True),
        ("127.8.9.10", True),
        ("[::1]", True),
        ("[::1]:65535", True),
        ("::1", False),
        ("127.1", False),
        ("2130706433", False),
        ("0.0.0.0", False),  # noqa: S104
        ("localhost:80:80", False),
        ("localhost:evil", False),
        ("[::1]evil", False),
        ("[::1", False),
        ("user@localhost", False),
        ("", False),
    ],
)
def test_loopback_hosts(host: str, loopback: bool) -> None:
    assert is_loopback_host(host) is loopback
    assert is_loopback_origin(f"http://{host}") is loopback


async def test_every_answer_carries_the_security_headers() -> None:
    async with Serving().client() as client:
        answers = [
            await client.get(path, headers=headers)
            for path in ("/page", "/api/runtime/things", "/nowhere")
            for headers in ({}, {"X-Runtime-API-Key": "wrong"})
        ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "camera=()" in answer.headers["permissions-policy"]
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers
        assert answer.headers.get("cache-control") == ("no-store" if "/api/" in str(answer.url) else None)


@pytest.mark.parametrize(("peer", "told"), [("127.0.0.1", True), ("192.0.2.7", False)])
async def test_in_production_what_a_proxy_took_over_tls_is_told_to_stay_there(peer: str, told: bool) -> None:
    async with Serving(BLOOM_ENV="production").client(peer=peer) as client:
        answer = await client.get("/page", headers={"X-Forwarded-Proto": "https"})
    assert (answer.headers.get("strict-transport-security") == "max-age=31536000") is told


async def test_there_are_no_websockets() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await Serving().app({"type": "websocket", "path": "/api/runtime/things", "headers": [], "state": {}}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
