"""Looking things up: unknown ids, filters, pages that are walked, and long texts that are cut."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Api, Replica, StartReplica, all_pages, refused, success, told

Call = Callable[[Api, str], httpx.Response]

METRICS = {"duration_ms": 1}
BY_TASK: dict[str, Call] = {
    "read": lambda api, id: api.get(f"/llm-tasks/{id}"),
    "results": lambda api, id: api.get(f"/llm-tasks/{id}/results"),
    "events": lambda api, id: api.get(f"/llm-tasks/{id}/events"),
    "stream": lambda api, id: api.get(f"/llm-tasks/{id}/stream"),
    "lease": lambda api, id: api.post(f"/llm-tasks/{id}/lease"),
    "heartbeat": lambda api, id: api.post(f"/llm-tasks/{id}/heartbeat"),
    "complete": lambda api, id: api.post(f"/llm-tasks/{id}/complete", success()),
    "complete a lease": lambda api, id: api.post(f"/llm-tasks/{id}/complete", {**success(), "lease_id": "none"}),
    "cancel": lambda api, id: api.post(f"/llm-tasks/{id}/cancel"),
    "requeue": lambda api, id: api.post(f"/llm-tasks/{id}/requeue"),
    "append": lambda api, id: api.post(
        f"/llm-tasks/{id}/events", {"lease_id": "none", "events": [{"seq": 1, "type": "text"}]}
    ),
}
BY_WORKER: dict[str, Call] = {
    "read": lambda api, id: api.get(f"/workers/{id}"),
    "remove": lambda api, id: api.delete(f"/workers/{id}"),
    "drain": lambda api, id: api.post(f"/workers/{id}/drain"),
    "resume": lambda api, id: api.post(f"/workers/{id}/resume"),
    "claim": lambda api, id: api.post(f"/workers/{id}/claim", {"request_id": "r"}),
    "extend": lambda api, id: api.post(f"/workers/{id}/extend", {"leases": []}),
}
BY_ARTIFACT: dict[str, Call] = {
    "read": lambda api, id: api.get(f"/artifacts/{id}"),
    "content": lambda api, id: api.get(f"/artifacts/{id}/content"),
    "url": lambda api, id: api.get(f"/artifacts/{id}/url"),
}
NOWHERE = [
    "none",
    "%00",
    "a%00b",
    "x" * 600,
    "%ED%A0%80",
    "%F0%9F%8C%B1",
    "null",
    "-1",
    "'; drop table bloom.tasks; --",
]


@pytest.mark.parametrize(
    ("calls", "code"),
    [(BY_TASK, "task_not_found"), (BY_WORKER, "worker_not_found"), (BY_ARTIFACT, "artifact_not_found")],
    ids=["task", "worker", "artifact"],
)
def test_what_nobody_knows_is_not_found(
    runtime: Replica, database: FreshDatabase, calls: dict[str, Call], code: str
) -> None:
    before = database.dump()
    for name, call in calls.items():
        for unknown in NOWHERE:
            assert refused(call(runtime, unknown), 404) == code, (name, unknown)
    assert database.dump() == before


def test_a_worker_that_nobody_knows_cannot_be_named_for_a_lease(runtime: Replica) -> None:
    task = runtime.create()
    answer = runtime.post(f"/llm-tasks/{task['id']}/lease", {"worker_id": "nobody"})
    assert refused(answer, 404) == "worker_not_found"
    assert runtime.task(task["id"])["status"] == "queued"


def test_completions_of_a_worker_that_nobody_knows_change_nothing(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, lease = runtime.leased()
    before = database.dump()
    body = {"completions": [{"task_id": task["id"], "lease_id": lease["id"], **success()}]}
    (outcome,) = told(runtime.post("/workers/nobody/complete", body))["completions"]
    assert outcome["outcome"] == "lease_lost"
    assert database.dump() == before


@pytest.mark.parametrize("path", ["/llm-tasks", "/leases", "/artifacts", "/audit"])
def test_limits_and_cursors_out_of_range_are_refused(quiet_runtime: Replica, path: str) -> None:
    for limit in ("0", "-1", "1001", "1.5", "abc", "", "1e3", "true", "9" * 30):
        answer = quiet_runtime.get(path, limit=limit)
        assert refused(answer, 400) == "invalid" and "limit" in answer.json()["error"]["fieldErrors"], limit
    for cursor in ("", "x", "AAAA", "WzFd0", "WyJhIl0", "W10", "WzEsMl0", "WzFlOTld", "\x00", "é", "a" * 3000):
        answer = quiet_runtime.get(path, cursor=cursor)
        assert refused(answer, 400) == "invalid" and "cursor" in answer.json()["error"]["fieldErrors"], cursor


@pytest.mark.parametrize("path", ["/llm-tasks", "/leases"])
def test_unknown_filter_values_are_refused(quiet_runtime: Replica, path: str) -> None:
    for status in ("other", "", "QUEUED", "queued,leased", "\x00", "1"):
        answer = quiet_runtime.get(path, status=status)
        assert refused(answer, 400) == "invalid" and "status" in answer.json()["error"]["fieldErrors"], status


def test_other_parameters_out_of_range_are_refused(runtime: Replica) -> None:
    task = runtime.create()
    assert refused(runtime.get("/artifacts", task_id="\x00"), 400) == "invalid"
    for after in ("-1", "abc", "9" * 20, "1.5"):
        assert refused(runtime.get(f"/llm-tasks/{task['id']}/events", after=after), 400) == "invalid"
    for last in ("abc", "-1", "1.5", "9" * 20):
        answer = runtime.http.get(f"/llm-tasks/{task['id']}/stream", headers={"Last-Event-ID": last})
        assert refused(answer, 400) == "invalid"


def test_a_path_or_method_that_is_not_there_is_refused_in_the_common_form(runtime: Replica) -> None:
    assert refused(runtime.get("/nothing"), 404) == "not_found"
    assert refused(runtime.http.put("/llm-tasks"), 405) == "method_not_allowed"


def test_walking_a_list_by_its_links_meets_everything_once_newest_first(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register(slots=32)
    tasks = [runtime.create(prompt=f"p{n}")["id"] for n in range(11)]
    for task_id in tasks[:7]:
        runtime.lease(task_id)
    for task_id in tasks[:5]:
        told(runtime.complete(task_id))

    walked, sizes = all_pages(runtime, "/llm-tasks", limit=4)
    assert [task["id"] for task in walked] == tasks[::-1] and sizes == [4, 4, 3]
    walked, sizes = all_pages(runtime, "/llm-tasks", limit=2, status="completed")
    assert [task["id"] for task in walked] == tasks[4::-1] and sizes == [2, 2, 1]
    walked, sizes = all_pages(runtime, "/leases", limit=3)
    assert [lease["task_id"] for lease in walked] == tasks[6::-1] and sizes == [3, 3, 1]
    walked, sizes = all_pages(runtime, "/leases", limit=1, status="active")
    assert [lease["task_id"] for lease in walked] == tasks[6:4:-1] and sizes == [1, 1]
    walked, sizes = all_pages(runtime, "/artifacts", limit=5)
    assert [artifact["task_id"] for artifact in walked] == tasks[4::-1] and sizes == [5]
    walked, sizes = all_pages(runtime, "/artifacts", limit=5, task_id=tasks[2])
    assert [artifact["task_id"] for artifact in walked] == [tasks[2]]
    walked, sizes = all_pages(runtime, "/audit", limit=10)
    assert len(walked) == database.value("select count(*) from bloom.audit_log") == 1 + 11 + 7 + 5
    assert [int(entry["id"]) for entry in walked] == sorted({int(entry["id"]) for entry in walked}, reverse=True)


def test_what_comes_while_a_list_is_walked_neither_repeats_nor_hides_anything(runtime: Replica) -> None:
    old = [runtime.create()["id"] for _ in range(4)]
    first = runtime.get("/llm-tasks", limit=2)
    for _ in range(3):
        runtime.create()
    second = runtime.http.get(first.url.join(first.links["next"]["url"]))
    assert [task["id"] for task in told(first) + told(second)] == old[::-1]
    assert "next" not in second.links


def test_a_list_without_a_limit_shows_a_hundred(runtime: Replica) -> None:
    body = {"tasks": [{"context_id": "c", "agent_slug": "a", "prompt": str(n)} for n in range(120)]}
    told(runtime.post("/llm-tasks/batch", body))
    _, sizes = all_pages(runtime, "/llm-tasks")
    assert sizes == [100, 20]
    _, sizes = all_pages(runtime, "/llm-tasks", limit=1000)
    assert sizes == [120]
    assert len(told(runtime.get("/runs"))) == 50
    assert len(told(runtime.get("/audit"))) == 100


def test_lists_cut_long_prompts_and_contents_and_say_so(runtime: Replica) -> None:
    runtime.register()
    long, short = "ß" * (64 * 1024 + 1), "s" * (64 * 1024)
    task, _ = runtime.leased(prompt=long)
    told(runtime.complete(task["id"], output=long))
    plain = runtime.create(prompt=short)

    for listed in (told(runtime.get("/llm-tasks")), told(runtime.get("/runs"))):
        shown: dict[str, Any] = {item["id"]: item for item in listed}
        assert shown[task["id"]]["truncated"] is True and long.startswith(shown[task["id"]]["prompt"])
        assert len(shown[task["id"]]["prompt"].encode()) <= 2 * 64 * 1024
        assert shown[plain["id"]]["prompt"] == short and "truncated" not in shown[plain["id"]]
    whole = runtime.task(task["id"])
    assert whole["prompt"] == long and "truncated" not in whole

    (artifact,) = told(runtime.get("/artifacts"))
    assert artifact["truncated"] is True and long.startswith(artifact["content"]) and artifact["content"]
    whole = told(runtime.get(f"/artifacts/{artifact['id']}"))
    assert whole["content"] == long and "truncated" not in whole
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert result["truncated"] is True and long.startswith(result["output"]) and result["output"]


def test_events_of_a_task_are_read_in_pieces(runtime: Replica) -> None:
    runtime.register()
    task, lease = runtime.leased()
    events = [{"seq": n, "type": "text", "data": {"n": n}} for n in range(25)]
    told(runtime.post(f"/llm-tasks/{task['id']}/events", {"lease_id": lease["id"], "events": events}))
    path, seen = f"/llm-tasks/{task['id']}/events", list[dict[str, Any]]()
    while page := told(runtime.get(path, after=seen[-1]["id"] if seen else 0, limit=10)):
        seen += page
    assert [event["data"]["n"] for event in seen] == list(range(25))
    assert [event["id"] for event in seen] == list(range(1, 26))
    assert {event["task_id"] for event in seen} == {task["id"]} and {e["lease_id"] for e in seen} == {lease["id"]}


def test_every_route_but_the_open_ones_wants_the_key(start_replica: StartReplica) -> None:
    runtime = start_replica(RUNTIME_API_KEY="the key of the admin")
    described = told(runtime.get("/openapi.json"))["paths"]
    with httpx.Client(base_url=runtime.url, trust_env=False, verify=False) as stranger:  # noqa: S501 (plain HTTP)
        for path, methods in described.items():
            for method in methods:
                answer = stranger.request(method, path.replace("{", "").replace("}", ""), json={})
                if path in ("/api/runtime/health", "/api/runtime/test-connection"):
                    assert answer.status_code == 200
                elif path.startswith("/api/"):
                    assert refused(answer, 401) == "unauthorized", (method, path)
