"""The admin key of Membridge is in no answer, page, log line, error or row, by whatever way it came and whatever comes back."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import membridge_stub as act
import pytest
from membridge_stub import CID, Stub
from tests.real_postgres import FreshDatabase, PostgresServer, eventually
from tests.real_runtime import Api, Served, StartServed, at_once, told

from bloom.base.roles import Role
from bloom.server.access import RULES

IN_ENVIRONMENT = "canary/e11f+key:of.the=environment"
SAVED = "canary-5d2a-saved-by-admin_key"
SAVED_TOO = "canary-77b1-saved-by-membridge_admin_key"
SEALING = "canary-0c9e-secret-that-seals"
CANARIES = (IN_ENVIRONMENT, SAVED, SAVED_TOO, SEALING)
RUNTIME_KEY = "key-of-the-runtime"
OF_MEMBRIDGE = [
    ("GET", "/api/membridge/health"),
    ("GET", "/api/membridge/projects"),
    ("GET", f"/api/membridge/projects/{CID}/leadership"),
    ("GET", f"/api/membridge/projects/{CID}/nodes"),
    ("POST", f"/api/membridge/projects/{CID}/leadership/select"),
    ("POST", "/api/runtime/test-connection"),
    ("GET", "/api/runtime/config"),
    ("GET", "/api/runtime/health"),
]
RETRIED = {"/health": act.echoes(500), "/projects": act.closes_early, f"/projects/{CID}/nodes": act.no_http}


def clean(text: str, where: object) -> None:
    """Fail if a secret is in `text`."""
    for canary in CANARIES:
        assert canary not in text, (where, text[max(0, text.index(canary) - 200) :][:500])


def call(runtime: Api, method: str, path: str, key: str | None, body: Any = None) -> httpx.Response:
    """The answer, of a stream its beginning; it holds no secret."""
    request = runtime.http.build_request(method, runtime.url + path, json={} if body is None else body)
    if key is None:
        del request.headers["X-Runtime-API-Key"]
    else:
        request.headers["X-Runtime-API-Key"] = key
    answer = runtime.http.send(request, stream=True)
    if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
        answer.read()
        clean(answer.text, (method, path, "body"))
    answer.close()
    clean(str(answer.headers.raw), (method, path, "headers"))
    return answer


def bad_bodies(key: str) -> Iterator[Any]:
    """Bodies of POST /config that are refused, with the key where it does not belong."""
    yield {"membridge_server_url": "no address", "admin_key": key}
    yield {"membridge_server_url": f"http://user:{key}@m.example"}
    yield {"membridge_server_url": f"http://m.example/?key={key}"}
    yield {"membridge_server_url": key}
    yield {"admin_key": [key], "membridge_admin_key": {key: key}}
    yield {"admin_key": f"{key}\n{key}"}
    yield {"admin_key": key, "membridge_admin_key": f"{key}x", "membridge_server_url": "http://m.example"}
    yield [key]
    yield key


def every_way(runtime: Served, membridge: Stub) -> None:
    """Meet Membridge by every route, however it behaves."""
    for status in (200, 401, 404, 302):
        membridge.behave("*", act.echoes(status))
        for method, path in OF_MEMBRIDGE:
            answer = call(runtime, method, path, RUNTIME_KEY, {"primary_node_id": "pi"})
            assert "Location" not in answer.headers and "Set-Cookie" not in answer.headers, (status, path)


@pytest.mark.timeout(120)
def test_the_admin_key_is_nowhere(
    served: StartServed, database: FreshDatabase, postgres_server: PostgresServer, membridge: Stub, tmp_path: Path
) -> None:
    membridge.behave("*", act.echoes())
    runtime = served(
        RUNTIME_API_KEY=RUNTIME_KEY,
        MEMBRIDGE_SERVER_URL=membridge.url,
        MEMBRIDGE_ADMIN_KEY=IN_ENVIRONMENT,
        BLOOM_SECRET_KEY=SEALING,
        BLOOM_LOG_LEVEL="debug",
        BLOOM_DATA_DIR=str(tmp_path / "data"),
    )
    keys: dict[str, str | None] = {"nobody": None, Role.ADMIN: RUNTIME_KEY}
    for role in Role:
        if role is not Role.ADMIN:
            fields = {"worker_name": "own"} if role is Role.WORKER else {}
            keys[role] = told(runtime.post("/keys", {"name": f"of {role}", "role": role, **fields}), 201)["key"]

    every_way(runtime, membridge)
    for name, canary in (("admin_key", SAVED), ("membridge_admin_key", SAVED_TOO)):
        membridge.behave("*", act.echoes())
        for body in bad_bodies(canary):
            assert call(runtime, "POST", "/api/runtime/config", RUNTIME_KEY, body).status_code == 400, body
        seen = len(membridge.seen)
        body = {"membridge_server_url": membridge.url, name: canary}
        assert call(runtime, "POST", "/api/runtime/config", RUNTIME_KEY, body).status_code == 200
        # The sync takes over an agent whose every field holds the key.
        eventually(lambda seen=seen: "/agents" in membridge.paths()[seen:], what="the sync")
        every_way(runtime, membridge)
        assert membridge.seen[-1].key == canary

    # What is tried again takes its time: all at once.
    for path, bad in RETRIED.items():
        membridge.behave(path, bad)
    at_once(3, lambda n: call(runtime, "GET", f"/api/membridge{list(RETRIED)[n]}", RUNTIME_KEY))
    assert call(runtime, *OF_MEMBRIDGE[-1], RUNTIME_KEY).json()["membridge"]["consecutiveFailures"] >= 3
    for path in RETRIED:
        membridge.behave(path, None)

    # When the database fails in the middle of saving, its errors quote rows.
    database.edit("alter table bloom.membridge_connection add constraint broken check (revision < 2) not valid")
    body = {"membridge_server_url": membridge.url, "admin_key": SAVED}
    assert call(runtime, "POST", "/api/runtime/config", RUNTIME_KEY, body).status_code == 500
    database.edit("alter table bloom.membridge_connection drop constraint broken")

    membridge.behave("*", act.echoes())
    eventually(lambda: "********" in runtime.get("/workers").text, what="the agent that was taken over")
    for key in keys.values():
        for method, path in RULES:
            if method != "DELETE" and path != "/api/runtime/keys":
                filled = re.sub(r"\{cid\}", CID, path)
                call(runtime, method, re.sub(r"\{\w+\}", "own", filled), key)
    runtime.stop()

    clean(str(database.dump()), "database")
    logs = {"server": runtime.log.read_text()}
    if postgres_server.embedded is not None:
        logs["postgres"] = postgres_server.embedded.log.read_text()
    for name, log in logs.items():
        assert log, name
        clean(log, name)
