"""Every route of Membridge against whoever may call: the admin, the admin with the key before, a stranger, a wrong key."""

import re
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from services import app_of
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import PostgresServer
from tests.real_runtime import refused

PREVIOUS = "the key before"
OPEN = {("GET", "/health")}
ROUTES = sorted(
    {(m, r.path) for r in iter_route_contexts(app_of("membridge").routes) for m in r.methods or () if r.path}
)


@pytest.fixture(scope="module")
def plane(postgres_server: PostgresServer) -> Generator[Membridge]:
    with (
        postgres_server.database() as database,
        Membridge(database.url, MEMBRIDGE_ADMIN_KEY_PREVIOUS=PREVIOUS) as started,
    ):
        yield started


def call(plane: Membridge, method: str, path: str, *keys: bytes) -> httpx.Response:
    """The answer to a request that shows these keys, each in a header of its own."""
    url = plane.url + re.sub(r"\{\w+(?::path)?\}", "nothing", path)
    json: Any = None if method in ("GET", "HEAD") else {}
    request = plane.http.build_request(method, url, json=json)
    del request.headers["X-MEMBRIDGE-ADMIN"]
    headers = [*request.headers.raw, *((b"X-MEMBRIDGE-ADMIN", key) for key in keys)]
    return plane.http.send(httpx.Request(method, url, headers=headers, content=request.content))


def test_there_is_no_open_route_but_health() -> None:
    assert len(ROUTES) > 20 and set(ROUTES) >= OPEN


@pytest.mark.parametrize("key", [KEY, PREVIOUS])
def test_both_keys_of_the_admin_are_let_in_everywhere(plane: Membridge, key: str) -> None:
    for method, path in ROUTES:
        assert call(plane, method, path, key.encode()).status_code not in (401, 403, 429), (method, path)


def test_a_stranger_is_let_in_to_health_alone(plane: Membridge) -> None:
    for method, path in ROUTES:
        answer = call(plane, method, path)
        assert (answer.status_code == 200) if (method, path) in OPEN else (answer.status_code == 401), (method, path)


def test_what_is_not_the_key_does_not_open_any_route(plane: Membridge) -> None:
    for number, (method, path) in enumerate(ROUTES):
        wrong = (b"", KEY[:-1].encode(), KEY.encode() + b"x", KEY.upper().encode(), b"\xff", PREVIOUS[1:].encode())
        answer = call(plane, method, path, wrong[number % len(wrong)])
        assert answer.status_code in ((200,) if (method, path) in OPEN else (401, 429)), (method, path)


@pytest.mark.parametrize(
    "path", ["/projects/", "//projects", "/./projects", "/%70rojects", "/health/", "/health/../jobs"]
)
def test_no_way_of_writing_a_path_gets_around_the_key(plane: Membridge, path: str) -> None:
    answer = plane.http.send(httpx.Request("GET", httpx.URL(plane.url).copy_with(raw_path=path.encode())))
    assert refused(answer, answer.status_code) in ("unauthorized", "rate_limited", "too_many_attempts")
    assert answer.status_code in (401, 429)
