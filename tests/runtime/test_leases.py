"""A lease decides who may report: expiry, fencing, and the reaper. Time is moved by editing the rows."""

from typing import Any

import pytest
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, refused, success, told
from tests.runtime.invariants import check_invariants

Held = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def held(runtime: Replica) -> Held:
    """A task that `worker` holds, and its lease."""
    runtime.register(slots=4)
    return runtime.leased()


def extend(runtime: Replica, lease_id: str, worker_id: str = "worker") -> str:
    (outcome,) = told(runtime.post(f"/workers/{worker_id}/extend", {"leases": [{"lease_id": lease_id}]}))["leases"]
    assert (outcome["expires_at"] is None) == (outcome["outcome"] == "lost")
    return outcome["outcome"]


def append(runtime: Replica, task_id: str, lease_id: str, seq: int = 1) -> Any:
    body: dict[str, Any] = {"lease_id": lease_id, "events": [{"seq": seq, "type": "text", "data": {}}]}
    return runtime.post(f"/llm-tasks/{task_id}/events", body)


def seconds_left(database: FreshDatabase, lease_id: str) -> float:
    return database.value(
        "select extract(epoch from expires_at - now())::float8 from bloom.leases where id = %(id)s", id=lease_id
    )


@pytest.mark.parametrize("ttl", [1, 300, 86_400])
def test_each_renewal_adds_the_ttl_of_the_lease(runtime: Replica, database: FreshDatabase, ttl: int) -> None:
    runtime.register()
    task, lease = runtime.leased(ttl_seconds=ttl)
    assert lease["ttl_seconds"] == ttl and lease["expires_at"] - lease["started_at"] == ttl * 1000
    for renew in (
        lambda: told(runtime.heartbeat(task["id"])),
        lambda: extend(runtime, lease["id"]),
        lambda: told(append(runtime, task["id"], lease["id"])),
    ):
        database.edit("update bloom.leases set expires_at = now() + interval '0.5 s' where id = %(id)s", id=lease["id"])
        renew()
        row = database.row("""select extract(epoch from expires_at - last_heartbeat)::float8 as sec, last_heartbeat
                              from bloom.leases""")  # fmt: skip
        assert row["sec"] == ttl


@pytest.mark.parametrize("sign", ["heartbeat", "named heartbeat", "extend", "events"])
def test_the_first_sign_of_life_makes_a_leased_task_running(runtime: Replica, held: Held, sign: str) -> None:
    task, lease = held
    assert runtime.task(task["id"])["status"] == "leased"
    match sign:
        case "heartbeat":
            told(runtime.heartbeat(task["id"]))
        case "named heartbeat":
            told(runtime.heartbeat(task["id"], lease["id"]))
        case "extend":
            assert extend(runtime, lease["id"]) == "held"
        case _:
            told(append(runtime, task["id"], lease["id"]))
    assert runtime.task(task["id"])["status"] == "running"


def test_after_expiry_nothing_revives_a_lease(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    told(runtime.heartbeat(task["id"]))
    database.expire(lease["id"])
    before = database.dump()
    assert refused(runtime.heartbeat(task["id"]), 409) == "lease_lost"
    assert refused(runtime.heartbeat(task["id"], lease["id"]), 409) == "lease_lost"
    assert extend(runtime, lease["id"]) == "lost"
    told(append(runtime, task["id"], lease["id"]))
    before["task_events"] = database.dump()["task_events"]
    # That the worker was heard from is noted, and nothing else.
    assert {**database.dump(), "workers": []} == {**before, "workers": []}
    assert runtime.reap() == [task["id"]]
    before = database.dump()
    assert refused(runtime.heartbeat(task["id"]), 409) == "not_leased"
    assert refused(runtime.heartbeat(task["id"], lease["id"]), 409) == "lease_lost"
    assert refused(append(runtime, task["id"], lease["id"]), 409) == "lease_lost"
    assert extend(runtime, lease["id"]) == "lost"
    assert {**database.dump(), "workers": []} == {**before, "workers": []}
    check_invariants(database)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("status", ["success", "error"])
def test_a_completion_of_an_expired_lease_is_taken_until_the_reaper_comes(
    runtime: Replica, database: FreshDatabase, held: Held, named: bool, status: str
) -> None:
    task, lease = held
    database.expire(lease["id"])
    told(runtime.complete(task["id"], lease["id"] if named else None, status=status))
    assert runtime.task(task["id"])["status"] == ("completed" if status == "success" else "failed")
    assert runtime.reap() == []
    check_invariants(database)


@pytest.mark.parametrize("report", ["success", "error", "retryable", "hand_back"])
def test_a_holder_that_lost_its_lease_changes_nothing(
    runtime: Replica, database: FreshDatabase, held: Held, report: str
) -> None:
    task, stale = held
    database.expire(stale["id"])
    runtime.reap()
    body: dict[str, Any] = {"retryable": report == "retryable", "hand_back": report == "hand_back"}
    body["status"] = "success" if report == "success" else "error"

    def dumped() -> dict[str, list[str]]:
        # What came too late is kept aside (tests/outputs).
        return {**database.dump(), "rejected_results": []}

    def all_ways_to_report(before: dict[str, list[str]]) -> None:
        assert refused(runtime.complete(task["id"], stale["id"], **body), 409) == "lease_lost"
        batch = [{"task_id": task["id"], "lease_id": stale["id"], **success(), **body}]
        (outcome,) = told(runtime.post("/workers/worker/complete", {"completions": batch}))["completions"]
        assert outcome["outcome"] == "lease_lost"
        assert dumped() == before

    all_ways_to_report(dumped())
    fresh = runtime.lease(task["id"])
    assert fresh["id"] != stale["id"]
    before = dumped()
    all_ways_to_report(before)
    assert refused(runtime.heartbeat(task["id"], stale["id"]), 409) == "lease_lost"
    assert refused(append(runtime, task["id"], stale["id"]), 409) == "lease_lost"
    assert dumped() == before
    told(runtime.complete(task["id"], fresh["id"]))
    all_ways_to_report(dumped())
    check_invariants(database)


def test_only_the_holder_reports_by_the_worker_plane(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    runtime.register("other")
    assert extend(runtime, lease["id"], "other") == "lost"
    before = database.dump()
    body = {"completions": [{"task_id": task["id"], "lease_id": lease["id"], **success()}]}
    (outcome,) = told(runtime.post("/workers/other/complete", body))["completions"]
    assert outcome["outcome"] == "lease_lost"
    assert database.dump() == before


def test_a_lease_of_another_task_speaks_for_that_one_only(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, _ = held
    _, other_lease = runtime.leased(context_id="other")
    before = database.dump()
    assert refused(runtime.complete(task["id"], other_lease["id"]), 409) == "lease_lost"
    assert refused(runtime.heartbeat(task["id"], other_lease["id"]), 409) == "lease_lost"
    assert refused(append(runtime, task["id"], other_lease["id"]), 409) == "lease_lost"
    assert database.dump() == before


@pytest.mark.parametrize("running", [False, True], ids=["leased", "running"])
def test_the_reaper_takes_back_leased_and_running_tasks(
    runtime: Replica, database: FreshDatabase, held: Held, running: bool
) -> None:
    task, lease = held
    if running:
        told(runtime.heartbeat(task["id"]))
    assert runtime.reap() == []
    database.expire(lease["id"])
    assert runtime.reap() == [task["id"]] and runtime.reap() == []
    back = runtime.task(task["id"])
    assert (back["status"], back["lease_id"], back["worker_id"], back["attempts"]) == ("queued", None, None, 1)
    (ended,) = told(runtime.get("/leases"))
    assert ended["status"] == "expired"
    assert told(runtime.get("/workers/worker"))["active_leases"] == 0
    entries = told(runtime.get("/audit", limit=2))
    assert {(e["action"], e["entity_id"], e["actor"]) for e in entries} == {
        ("lease_expired", lease["id"], "system:reaper"),
        ("task_retried", task["id"], "system:reaper"),
    }
    # Without a backoff: it can be leased at once.
    runtime.register()
    runtime.lease(task["id"])
    check_invariants(database)


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_task_is_dead_once_its_last_attempt_expired(
    runtime: Replica, database: FreshDatabase, max_attempts: int
) -> None:
    task = runtime.create(max_attempts=max_attempts)
    for attempt in range(1, max_attempts + 1):
        runtime.register()
        lease = runtime.lease(task["id"])
        assert runtime.task(task["id"])["attempts"] == attempt
        database.expire(lease["id"])
        runtime.reap()
    dead = runtime.task(task["id"])
    assert (dead["status"], dead["attempts"]) == ("dead", max_attempts)
    assert runtime.audit(task["id"])[-1] == ("task_dead", "system:reaper")
    runtime.register()
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_queued"
    check_invariants(database)


def test_the_reaper_takes_hundreds_of_leases_at_once(runtime: Replica, database: FreshDatabase) -> None:
    database.edit("insert into bloom.workers (id, status) values ('crowd', 'online')")
    database.edit("""
        insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, attempts,
                                 lease_id, worker_id)
        select 't' || n, 'c', 'a', 'p', 1, 0, 'text', 'running', 1, 'l' || n, 'crowd' from generate_series(1, 1201) n""")
    database.edit("""
        insert into bloom.leases (id, task_id, worker_id, context_id, status, expires_at, ttl_seconds)
        select 'l' || n, 't' || n, 'crowd', 'c', 'active', now() - interval '1 s', 1 from generate_series(1, 1201) n""")
    assert len(runtime.reap()) == 1201
    assert database.value("select count(*) from bloom.tasks where status = 'queued'") == 1201


def test_the_server_reaps_by_itself(start_replica: StartReplica, database: FreshDatabase) -> None:
    runtime = start_replica(maintenance=True)
    runtime.register()
    task, lease = runtime.leased()
    told(runtime.heartbeat(task["id"]))
    database.expire(lease["id"])
    eventually(lambda: runtime.task(task["id"])["status"] == "queued", within_sec=15)
    check_invariants(database)


def test_a_call_without_a_lease_speaks_for_the_current_one(runtime: Replica, held: Held) -> None:
    task, stale = held
    told(runtime.fail(task["id"], retryable=True, retry_after_sec=0))
    fresh = runtime.lease(task["id"])
    assert told(runtime.heartbeat(task["id"]))["lease"]["id"] == fresh["id"] != stale["id"]
    assert told(runtime.complete(task["id"]))["result"]["lease_id"] == fresh["id"]


@pytest.mark.parametrize("state", ["queued", "completed", "failed", "dead", "cancelled"])
def test_a_task_that_nobody_holds_takes_no_reports(runtime: Replica, database: FreshDatabase, state: str) -> None:
    runtime.register()
    task = runtime.create(max_attempts=1)
    if state == "cancelled":
        told(runtime.post(f"/llm-tasks/{task['id']}/cancel"))
    elif state != "queued":
        runtime.lease(task["id"])
        report: dict[str, dict[str, Any]] = {
            "completed": {},
            "failed": {"status": "error"},
            "dead": {"status": "error", "retryable": True},
        }
        told(runtime.complete(task["id"], **report[state]))
    assert runtime.task(task["id"])["status"] == state
    before = database.dump()
    expected = "cancelled" if state == "cancelled" else "not_leased"
    assert refused(runtime.heartbeat(task["id"]), 409) == expected
    assert refused(runtime.complete(task["id"]), 409) == expected
    assert database.dump() == before


def test_only_a_queued_task_can_be_leased(runtime: Replica, held: Held) -> None:
    task, _ = held
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_queued"
    told(runtime.heartbeat(task["id"]))
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_queued"
    told(runtime.complete(task["id"]))
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_queued"


def test_one_extend_answers_for_each_lease_by_itself(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    _, kept = held
    _, expired = runtime.leased(context_id="expired")
    asked_task, asked = runtime.leased(context_id="asked")
    database.expire(expired["id"])
    told(runtime.post(f"/llm-tasks/{asked_task['id']}/cancel"))
    ids = [kept["id"], expired["id"], "unknown", asked["id"], kept["id"]]
    answer = told(runtime.post("/workers/worker/extend", {"leases": [{"lease_id": id} for id in ids]}))
    assert [(item["lease_id"], item["outcome"]) for item in answer["leases"]] == list(
        zip(ids, ["held", "lost", "lost", "cancel", "held"], strict=True)
    )
    assert seconds_left(database, asked["id"]) > 290
