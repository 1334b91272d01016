"""Whatever is sent, the worst answer is a 400 that names the field; and nothing has changed."""

import json
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.real_postgres import FreshDatabase, PostgresServer
from tests.real_runtime import Replica, refused, told
from tests.runtime.bad_values import CONTENT, OBJECT, TRUTH, Kind, cases, many, number, one_of, placed, text, whole

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Route:
    """A route with a body: a good one, and what each field takes. A `repeatable` one can be called again and again."""

    path: str
    body: dict[str, Any]
    fields: dict[str, Kind]
    required: tuple[str, ...] = ()
    status: int = 200
    repeatable: bool = False


METRICS = {"duration_ms": 1}
REPORT = {
    "status": one_of("success", "error"),
    "output": text(None, empty=True, null=True),
    "error_message": text(None, empty=True, null=True),
    "metrics": Kind(OBJECT.bad, (METRICS,)),
    "metrics.duration_ms": number(0, 1e15),
    "metrics.tokens_used": number(0, 1e15, null=True),
    "metrics.extra": Kind(("\x00", ["\x00"], {"\x00": 1}), (None, 1, "x", [1], {"a": 1}, 10**300)),
    "artifact_type": text(128),
    "artifact_tags": many(text(255, empty=True), 100),
    "retryable": TRUTH,
    "retry_after_sec": number(0, 30 * 86_400, null=True),
    "code": text(64, null=True),
    "hand_back": TRUTH,
}
EVENT = {"seq": 1, "type": "text"}
ROUTES = {
    "create": Route(
        "/llm-tasks",
        {"context_id": "c", "agent_slug": "a", "prompt": "p"},
        {
            "context_id": text(512),
            "agent_slug": text(512),
            "prompt": text(None),
            "context_hints": many(text(None, empty=True), 1000),
            "policy": OBJECT,
            "policy.timeout_sec": whole(1, 3600),
            "policy.budget": number(0, 1e9),
            "desired_format": one_of("json", "text"),
            "max_attempts": whole(1, 10),
            "priority": whole(-32_768, 32_767),
            "run_at": whole(0, 253_402_300_799_999, null=True),
            "idempotency_key": text(255, null=True),
            "labels": many(text(128), 32),
            "concurrency_key": text(255, null=True),
            "retry": OBJECT,
            "retry.base_sec": number(0, 86_400),
            "retry.max_sec": number(0, 86_400),
        },
        required=("context_id", "agent_slug", "prompt"),
        status=201,
        repeatable=True,
    ),
    "register": Route(
        "/workers",
        {"name": "someone"},
        {
            "name": text(128),
            "url": text(1024, empty=True, null=True),
            "status": one_of("online", "offline", "syncing", "error", "unknown"),
            "capabilities": OBJECT,
            "capabilities.claude_cli": TRUTH,
            "capabilities.max_concurrency": whole(1, 32),
            "capabilities.labels": many(text(128), 64),
            "ip_addrs": many(text(255, empty=True), 64, null=True),
            "agent_version": text(1024, empty=True, null=True),
            "os_info": text(1024, empty=True, null=True),
            "install_method": text(1024, empty=True, null=True),
        },
        required=("name",),
        status=201,
        repeatable=True,
    ),
    "lease": Route(
        "/llm-tasks/{queued}/lease",
        {},
        {"worker_id": text(512, null=True), "ttl_seconds": whole(1, 86_400)},
        status=201,
    ),
    "heartbeat": Route("/llm-tasks/{held}/heartbeat", {}, {"lease_id": text(512, null=True)}),
    "complete": Route(
        "/llm-tasks/{held}/complete",
        {"status": "success", "output": "x", "metrics": METRICS},
        {**REPORT, "lease_id": text(512, null=True)},
        required=("status", "metrics", "metrics.duration_ms"),
    ),
    "batch": Route("/llm-tasks/batch", {"tasks": [{}]}, {"tasks": many(Kind((), ({},)), 1000, least=1)}, ("tasks",)),
    "events": Route(
        "/llm-tasks/{held}/events",
        {"lease_id": "{lease}", "events": [EVENT]},
        {
            "lease_id": text(512),
            "events": many(Kind((1, True, "abc", None, []), (EVENT,)), 1000, least=1),
            "events.0.seq": Kind(whole(0, 2**53).bad, (0, 1)),
            "events.0.type": text(64),
            "events.0.data": CONTENT,
            "events.0.at": whole(0, 253_402_300_799_999, null=True),
        },
        required=("lease_id", "events", "events.0.seq", "events.0.type"),
    ),
    "claim": Route(
        "/workers/worker/claim",
        {"request_id": "r"},
        {
            "request_id": text(512),
            "slots": whole(1, 32),
            "wait_sec": Kind(number(0, 60).bad, (0,)),
            "ttl_seconds": whole(1, 86_400),
        },
        required=("request_id",),
    ),
    "extend": Route(
        "/workers/worker/extend",
        {"leases": [{"lease_id": "{lease}"}]},
        {"leases": many(Kind((1, "abc", None, []), ({"lease_id": "x"},)), 1000), "leases.0.lease_id": text(512)},
        required=("leases", "leases.0.lease_id"),
    ),
    "complete batch": Route(
        "/workers/worker/complete",
        {"completions": [{}]},
        {"completions": many(Kind((), ({},)), 1000, least=1)},
        ("completions",),
    ),
}


@dataclass
class Scene:
    """A runtime with a worker, a queued task and one that is held."""

    runtime: Replica
    database: FreshDatabase
    ids: dict[str, str] = field(default_factory=dict[str, str])

    def post(self, route: Route, body: Any) -> Any:
        """The answer to the body, in which ids are filled in, unless it is text to be sent as it is."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in self.ids.items():
            content = content.replace(b"{%s}" % name.encode(), value.encode())
        return self.runtime.http.post(route.path.format(**self.ids), content=content, headers=JSON)


@pytest.fixture(scope="module")
def scene(postgres_server: PostgresServer) -> Generator[Scene]:
    with postgres_server.database() as database, Replica(database.url) as runtime:
        runtime.register(slots=2)
        held, lease = runtime.leased()
        yield Scene(runtime, database, {"queued": runtime.create()["id"], "held": held["id"], "lease": lease["id"]})


def names(body: Any) -> set[str]:
    return set(body["error"]["fieldErrors"]) if isinstance(body["error"], dict) else set()


@pytest.mark.parametrize("name", ROUTES)
def test_each_field_refuses_what_it_cannot_mean(scene: Scene, name: str) -> None:
    route = ROUTES[name]
    before = scene.database.dump()
    wrong: list[Any] = []
    for path, value in cases(route.fields):
        answer = scene.post(route, placed(route.body, path, value))
        told_of = names(answer.json()) if answer.status_code == 400 else set[str]()
        if answer.json().get("code") != "invalid" or not any(f == path or f.startswith(f"{path}.") for f in told_of):
            wrong.append((path, repr(value)[:60], answer.status_code, answer.text[:200]))
    assert not wrong
    assert scene.database.dump() == before


@pytest.mark.parametrize("name", ROUTES)
def test_each_missing_field_is_named(scene: Scene, name: str) -> None:
    route = ROUTES[name]
    for path in route.required:
        body = json.loads(json.dumps(placed(route.body, path, "to be removed")))
        *parents, last = path.split(".")
        inner = body
        for parent in parents:
            inner = inner[int(parent)] if parent.isdigit() else inner[parent]
        del inner[last]
        answer = scene.post(route, body)
        assert refused(answer, 400) == "invalid", path
        assert answer.json()["error"]["fieldErrors"] == {path: ["Required"]}
    if route.required:
        assert names(scene.post(route, b"").json()) == {path for path in route.required if "." not in path}


@pytest.mark.parametrize("name", [name for name, route in ROUTES.items() if route.repeatable])
def test_each_field_takes_what_lies_at_its_limits(scene: Scene, name: str) -> None:
    route = ROUTES[name]
    for path, kind in route.fields.items():
        for value in kind.good:
            answer = scene.post(route, placed(route.body, path, value))
            assert answer.status_code in (200, 201), (path, repr(value)[:80], answer.text[:300])


@pytest.mark.parametrize("name", ["complete", "events"])
def test_each_field_of_a_report_takes_what_lies_at_its_limits(scene: Scene, name: str) -> None:
    route = ROUTES[name]
    scene.runtime.register("reporter")
    for path, kind in route.fields.items():
        for value in () if path == "lease_id" else kind.good:
            task, lease = scene.runtime.leased("reporter")
            body = placed({**route.body, "lease_id": lease["id"]}, path, value)
            told(scene.runtime.post(route.path.format(held=task["id"]), body))
            scene.runtime.fail(task["id"])


BODIES: dict[str, bytes] = {
    "a list": b"[]",
    "a text": b'"abc"',
    "a number": b"1",
    "truth": b"true",
    "nothing": b"null",
    "a cut object": b'{"prompt": "x',
    "no JSON": b"prompt=x",
    "two values": b"{} {}",
    "NaN": b'{"metrics": {"duration_ms": NaN}}',
    "infinity": b'{"ttl_seconds": Infinity}',
    "beyond a double": b'{"ttl_seconds": 1e999, "policy": {"budget": 1e999}}',
    "huge integer": b'{"ttl_seconds": ' + b"9" * 100_000 + b"}",
    "huge integer deep inside": b'{"metrics": {"duration_ms": 1, "x": [' + b"9" * 5000 + b"]}}",
    "lone surrogate": b'{"prompt": "\\ud800", "lease_id": "\\udfff", "request_id": "\\ud800"}',
    "invalid UTF-8": b'{"prompt": "\xff\xfe", "request_id": "\xff"}',
    "surrogate in UTF-8": b'{"prompt": "\xed\xa0\x80", "request_id": "\xed\xa0\x80"}',
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"policy":' * 50_000 + b"1" + b"}" * 50_000,
    "deep inside a free object": b'{"metrics": {"duration_ms": 1, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}}",
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
}
OPTIONAL_BODY = {"lease", "heartbeat"}


@pytest.mark.parametrize("name", ROUTES)
def test_a_body_that_is_no_object_is_refused(scene: Scene, name: str) -> None:
    before = scene.database.dump()
    for kind, body in BODIES.items():
        if kind == "nothing" and name in OPTIONAL_BODY:
            continue
        answer = scene.post(ROUTES[name], body)
        if name == "heartbeat" and answer.status_code == 200:
            # Unknown fields are ignored, whatever they hold.
            assert kind in ("surrogate in UTF-8",), kind
            continue
        assert refused(answer, 400) in ("invalid", "invalid_json"), kind
    assert scene.database.dump() == before


def test_a_bad_item_of_a_batch_fails_alone(scene: Scene) -> None:
    good = {"context_id": "c", "agent_slug": "a", "prompt": "p"}
    items: list[Any] = [good, {**good, "prompt": "\x00"}, 7, None, {}, {**good, "max_attempts": 11}, good]
    results = told(scene.runtime.post("/llm-tasks/batch", {"tasks": items}))["results"]
    assert [result["status"] for result in results] == [201, 400, 400, 400, 400, 400, 201]
    assert names(results[1]) == {"prompt"} and names(results[5]) == {"max_attempts"}
    assert results[2]["error"]["formErrors"] == ["Must be an object"]
    lease = {"task_id": "t", "lease_id": "l", "status": "success", "metrics": METRICS}
    bad: list[Any] = [{**lease, "output": "\x00"}, 7, None, {}, lease]
    outcomes = told(scene.runtime.post("/workers/worker/complete", {"completions": bad}))["completions"]
    assert [outcome["outcome"] for outcome in outcomes] == [*["invalid"] * 4, "task_not_found"]
    assert outcomes[0]["task_id"] == "t" and names(outcomes[0]) == {"output"}


def test_the_header_of_an_idempotency_key_is_checked_too(scene: Scene) -> None:
    for value in ("", "x" * 256):
        answer = scene.runtime.post("/llm-tasks", ROUTES["create"].body, **{"Idempotency-Key": value})
        assert refused(answer, 400) == "invalid" and names(answer.json()) == {"Idempotency-Key"}
