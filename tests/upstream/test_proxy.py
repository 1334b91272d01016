"""What is passed on to Membridge, the connection test, and what each leaves in the audit log."""

import socket
from typing import Any

import httpx
import membridge_stub as act
import pytest
from membridge_stub import CID, Stub
from tests.real_runtime import Api, Replica, StartReplica, at_once, refused, told

from bloom.base.roles import Role
from bloom.upstream import client
from bloom.upstream.model import Target

KEY = "canary-c63a-admin-key"
RUNTIME_KEY = "the key of the runtime"
SELECT = f"/projects/{CID}/leadership/select"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(client, "FIRST_PAUSE_SEC", 0.0)


@pytest.fixture
def runtime(start_replica: StartReplica, membridge: Stub) -> Replica:
    """A runtime that knows its Membridge, and the key that this one asks for."""
    membridge.admin_key = KEY
    return start_replica(MEMBRIDGE_SERVER_URL=membridge.url, MEMBRIDGE_ADMIN_KEY=KEY)


def get(runtime: Api, path: str) -> httpx.Response:
    return runtime.http.get(f"{runtime.url}/api/membridge{path}")


def select(runtime: Api, node: str = "pi", **fields: Any) -> httpx.Response:
    return runtime.http.post(f"{runtime.url}/api/membridge{SELECT}", json={"primary_node_id": node, **fields})


def state(runtime: Api) -> dict[str, Any]:
    """What /health says of Membridge."""
    return told(runtime.get("/health"))["membridge"]


def audit(runtime: Api, action: str) -> list[dict[str, Any]]:
    return [entry for entry in told(runtime.get("/audit")) if entry["action"] == action]


def test_what_membridge_says_is_passed_on(runtime: Replica, membridge: Stub) -> None:
    assert told(get(runtime, "/health"))["service"] == "membridge-control-plane"
    assert told(get(runtime, "/projects")) == [{"name": "diary", "canonical_id": CID}]
    assert told(get(runtime, f"/projects/{CID}/nodes")) == [{"node_id": "pi"}]
    assert told(get(runtime, f"/projects/{CID}/leadership"))["preferred_primary"] == "pi"
    assert membridge.paths() == ["/health", "/projects", f"/projects/{CID}/nodes", f"/projects/{CID}/leadership"]
    assert {seen.key for seen in membridge.seen} == {KEY}
    found = state(runtime)
    assert (found["consecutiveFailures"], found["lastError"], found["connected"]) == (0, None, True)
    assert found["lastSuccess"] > 1_700_000_000_000


def test_a_sub_path_of_the_address_is_kept(start_replica: StartReplica, membridge: Stub) -> None:
    membridge.behave("/sub/projects", act.says([]))
    runtime = start_replica(MEMBRIDGE_URL=f"{membridge.url}/sub/")
    assert told(get(runtime, "/projects")) == []


def test_a_refusal_is_passed_on_with_its_words(runtime: Replica, membridge: Stub) -> None:
    told(get(runtime, "/projects"))
    for status in (400, 404, 409, 422, 429):
        membridge.behave("/projects", act.says({"error": "Not so.", "code": "not_so", "more": "x"}, status))
        assert told(get(runtime, "/projects"), status) == {"error": "Not so.", "code": "not_so"}
        membridge.behave("/projects", act.says({"detail": "Not found, " + "x" * 5000}, status))
        assert len(told(get(runtime, "/projects"), status)["error"]) == 500
        for useless in (act.says([1], status), act.says({"error": {}, "code": "N O"}, status), act.raw(b"", status)):
            membridge.behave("/projects", useless)
            assert told(get(runtime, "/projects"), status) == {
                "error": f"Membridge answered {status}",
                "code": "membridge_error",
            }
        assert state(runtime)["connected"]


def test_a_failure_is_passed_on_without_its_words(runtime: Replica, membridge: Stub) -> None:
    for status, code in ((401, "membridge_unauthorized"), (403, "membridge_forbidden"), (500, "membridge_error")):
        membridge.behave("/projects", act.says({"error": "Traceback: /srv/secret", "code": "x"}, status))
        answer = get(runtime, "/projects")
        assert refused(answer, status) == code and "secret" not in answer.text
        assert state(runtime)["connected"] is False and str(status) in state(runtime)["lastError"]
        # Health is open at Membridge: that it answers does not mean that the key is taken.
        told(get(runtime, "/health"))
        assert state(runtime)["connected"] is False
        membridge.behave("/projects", None)
        told(get(runtime, "/projects"))
        assert state(runtime)["connected"]


def test_an_answer_of_no_use_is_a_bad_gateway(runtime: Replica, membridge: Stub) -> None:
    for number, (bad, code) in enumerate(
        (
            (act.closes, "membridge_unreachable"),
            (act.raw(b"<html>"), "membridge_not_json"),
            (act.endless, "membridge_too_large"),
            (act.redirects("/health"), "membridge_redirect"),
        ),
        1,
    ):
        membridge.behave("/projects", bad)
        answer = get(runtime, "/projects")
        assert refused(answer, 502) == code and "Location" not in answer.headers
        found = state(runtime)
        assert (found["consecutiveFailures"], found["connected"]) == (number, False)
        assert found["lastError"] == told(answer, 502)["error"]


def test_an_id_that_is_none_is_not_put_into_a_path(runtime: Replica, membridge: Stub) -> None:
    for cid in ("..", "%2e%2e", "a%20b", "a%0d%0ab", "x" * 129, "%C3%A9", "a%23", "a%3Fb", "a%00", "a%2Fb", "a%0a"):
        for path in (f"/projects/{cid}/nodes", f"/projects/{cid}/leadership"):
            request = httpx.Request("GET", f"{runtime.url}/api/membridge{path}")
            assert runtime.http.send(request).status_code in (400, 404), path
    assert membridge.seen == []


def test_a_promotion_is_passed_on_and_audited(runtime: Replica, membridge: Stub) -> None:
    assert told(select(runtime, lease_seconds=60, unknown="x"))["primary_node_id"] == "pi"
    assert membridge.seen[-1].body == b'{"primary_node_id":"pi","lease_seconds":60}'
    assert told(select(runtime))["lease_seconds"] == 3600
    assert refused(select(runtime, "nobody"), 404) == "node_not_found"
    entries = audit(runtime, "leadership_promote")
    assert [(e["entity_type"], e["entity_id"], e["actor"]) for e in entries] == [("project", CID, "local")] * 2
    assert entries[-1]["detail"] == {"primary_node_id": "pi", "lease_seconds": 60}


def test_a_promotion_of_unknown_outcome_is_made_once_and_audited_as_that(runtime: Replica, membridge: Stub) -> None:
    for number, bad in enumerate((act.closes, act.says({}, 500), act.raw(b"done")), 1):
        membridge.behave("*", bad)
        assert select(runtime).status_code in (500, 502)
        assert membridge.paths() == [SELECT] * number
        entries = audit(runtime, "leadership_promote")
        assert [entry["detail"]["outcome"] for entry in entries] == ["unknown"] * number


def test_a_bad_promotion_is_not_passed_on(runtime: Replica, membridge: Stub) -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"primary_node_id": ""},
        {"primary_node_id": 7},
        {"primary_node_id": "x\0"},
        {"primary_node_id": "pi", "lease_seconds": 0},
        {"primary_node_id": "pi", "lease_seconds": "60"},
        {"primary_node_id": "pi", "lease_seconds": 1e12},
    ]
    for body in bodies:
        answer = runtime.http.post(f"{runtime.url}/api/membridge{SELECT}", json=body)
        assert refused(answer, 400) == "invalid", body
    assert membridge.seen == []


def test_a_test_says_how_membridge_is_and_leaves_a_trace(runtime: Replica, membridge: Stub) -> None:
    outcome = told(runtime.post("/test-connection"))
    assert (
        outcome["connected"] is True
        and outcome["health"]["version"] == "1"
        and set(outcome)
        == {
            "connected",
            "health",
        }
    )
    config = told(runtime.get("/config"))
    assert config["connected"] and config["last_test"] > 1_700_000_000_000
    (entry,) = audit(runtime, "connection_test")
    assert (entry["actor"], entry["detail"]) == ("local", {"connected": True, "error": None})


def test_a_test_says_why_it_does_not_work(runtime: Replica, membridge: Stub) -> None:
    problems: list[tuple[str, act.Act, str]] = [
        ("/agents", act.says({"error": "no"}, 401), "refuses the admin key"),
        ("*", act.closes, "cannot be reached"),
        ("*", act.says({}, 503), "503"),
        ("/health", act.says(["ok"]), "not as Membridge does"),
        ("/health", act.says({"a": 1}, 404), "not as Membridge does"),
        ("/health", act.raw(b"<html>"), "not JSON"),
        ("/health", act.redirects("/agents"), "redirect"),
    ]
    for path, bad, says in problems:
        membridge.behave(path, bad)
        outcome = told(runtime.post("/test-connection"))
        assert outcome["connected"] is False and says in outcome["error"] and set(outcome) == {"connected", "error"}
        assert told(runtime.get("/config"))["connected"] is False
        assert audit(runtime, "connection_test")[0]["detail"] == outcome
        membridge.behave(path, None)


def test_what_answers_404_to_everything_is_no_membridge(runtime: Replica, membridge: Stub) -> None:
    membridge.behave("*", act.says({"error": "no"}, 404))
    assert not told(runtime.post("/test-connection"))["connected"]
    told(get(runtime, "/projects"), 404)
    assert state(runtime)["connected"] is False
    membridge.behave("*", act.says({"agents": []}))
    assert not told(runtime.post("/test-connection"))["connected"]


def test_a_membridge_that_knows_health_alone_is_connected(runtime: Replica, membridge: Stub) -> None:
    membridge.behave("/agents", act.raw(b"", 404))
    assert told(runtime.post("/test-connection"))["connected"]


def test_anybody_may_test_and_the_log_says_who_did(start_replica: StartReplica, membridge: Stub) -> None:
    runtime = start_replica(RUNTIME_API_KEY=RUNTIME_KEY, MEMBRIDGE_SERVER_URL=membridge.url)
    made = told(runtime.post("/keys", {"name": "watch", "role": Role.READER}), 201)["key"]
    for key in (None, "wrong", made, RUNTIME_KEY):
        headers = {} if key is None else {"X-Runtime-API-Key": key}
        with httpx.Client(headers=headers, trust_env=False) as caller:
            assert told(caller.post(f"{runtime.url}/api/runtime/test-connection"))["connected"]
            assert caller.get(f"{runtime.url}/api/membridge/health").status_code == (
                401 if key in (None, "wrong") else 200
            )
    actors = [entry["actor"] for entry in reversed(audit(runtime, "connection_test"))]
    assert actors == ["anonymous", "anonymous", "key:watch", "admin"]


def test_a_test_asks_nobody_that_the_caller_names(runtime: Replica, membridge: Stub) -> None:
    with Stub() as victim:
        body = {"membridge_server_url": victim.url, "url": victim.url, "admin_key": "x"}
        for answer in (
            runtime.post("/test-connection", body),
            runtime.http.post("/test-connection", params=body, json=body, headers={"X-Forwarded-Host": victim.url}),
            runtime.http.post("/test-connection", content=b"{", headers={"Content-Type": "application/json"}),
        ):
            assert told(answer)["connected"]
        assert victim.seen == []


def test_tests_that_are_asked_for_together_are_one(
    runtime: Replica, membridge: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(stub: Stub, connection: socket.socket, seen: act.Seen) -> None:
        stub.go.wait(5)
        act.says({"status": "ok"})(stub, connection, seen)

    connections = runtime.services.connections
    look, asked = connections.target, 0

    async def counted() -> Target:
        nonlocal asked
        target = await look()
        asked += 1
        if asked == 8:  # the others have joined the first by now
            membridge.go.set()
        return target

    membridge.behave("/health", late)
    monkeypatch.setattr(connections, "target", counted)
    assert {outcome["connected"] for outcome in at_once(8, lambda _: told(runtime.post("/test-connection")))} == {True}
    assert membridge.paths() == ["/health", "/agents"]
    assert len(audit(runtime, "connection_test")) == 8
