"""The nginx settings of `deploy/`, in a real nginx with TLS before the real runtime."""

import re
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.deploy.nginx_front import NAME, NGINX, Front
from tests.real_runtime import Replica, StartReplica, told

KEY = "the admin's key"

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing (Debian: apt install nginx-light)")


@pytest.fixture
def behind(start_replica: StartReplica, tmp_path: Path) -> Generator[tuple[Replica, Front]]:
    runtime = start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production")
    front = Front(tmp_path, [runtime.url])
    yield runtime, front
    front.stop()


def test_plain_http_leads_to_https_and_only_there_a_session_begins(behind: tuple[Replica, Front]) -> None:
    _, front = behind
    plain = front.http.get(f"http://127.0.0.1:{front.plain}/tasks")
    assert (plain.status_code, plain.headers["Location"]) == (301, f"https://{NAME}/tasks")
    page = front.http.get(f"{front.url}/sign-in", headers={"Accept": "text/html"})
    assert page.status_code == 200
    token = re.search(r'name="form_token" value="(\w+)"', page.text)
    assert token
    signed_in = front.http.post(f"{front.url}/sign-in", data={"form_token": token[1], "key": KEY, "next": "/"})
    cookie = signed_in.headers["Set-Cookie"]
    assert signed_in.status_code == 303 and "Secure" in cookie and "HttpOnly" in cookie and "SameSite=Lax" in cookie


def test_a_task_is_served_and_followed_live(behind: tuple[Replica, Front]) -> None:
    runtime, front = behind
    runtime.register()
    key = {"X-Runtime-API-Key": KEY}
    body = {"context_id": "c", "agent_slug": "a", "prompt": "x" * 3_000_000}
    task = told(front.http.post(f"{front.url}/api/runtime/llm-tasks", json=body, headers=key), 201)
    lease = runtime.lease(task["id"])
    with front.http.stream("GET", f"{front.url}/api/runtime/llm-tasks/{task['id']}/stream", headers=key) as stream:
        lines = stream.iter_lines()
        assert "event: task" in next(line for line in lines if line.startswith("event"))
        # The first event has come through before there was a second.
        told(runtime.complete(task["id"], lease["id"]))
        assert "event: end" in [line for line in lines if line.startswith("event")]


def test_membridge_is_served_under_its_own_name(start_replica: StartReplica, tmp_path: Path) -> None:
    # Whatever answers at Membridge's port will do.
    runtime = start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production")
    front = Front(tmp_path, [runtime.url], membridge=runtime.url)
    try:
        host = {"Host": "membridge.example.org"}
        assert front.http.get(f"{front.url}/api/runtime/health", headers=host).status_code == 200
        plain = front.http.get(f"http://127.0.0.1:{front.plain}/health", headers=host)
        assert (plain.status_code, plain.headers["Location"]) == (301, "https://membridge.example.org/health")
    finally:
        front.stop()


def test_a_replica_that_is_gone_is_passed_over(start_replica: StartReplica, tmp_path: Path) -> None:
    one, other = (start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production") for _ in range(2))
    front = Front(tmp_path, [one.url, other.url])
    key = {"X-Runtime-API-Key": KEY}
    body = {"context_id": "c", "agent_slug": "a", "prompt": "Hello"}
    try:
        for round_number in range(12):
            if round_number == 4:
                one.stop()
            told(front.http.post(f"{front.url}/api/runtime/llm-tasks", json=body, headers=key), 201)
        assert told(other.get("/stats"))["tasks"]["total"] == 12
    finally:
        front.stop()
