"""Many callers at once, by real HTTP, through one server process and through two."""

from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import httpx
import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import PATIENCE_SEC, Fronts, Replica, at_once, refused, told
from tests.runtime.invariants import check_invariants

NEW = {"context_id": "context", "agent_slug": "agent", "prompt": "Say hello."}


def by_status(answers: list[httpx.Response]) -> dict[int, int]:
    return dict(Counter(answer.status_code for answer in answers))


def test_of_fifty_leases_of_one_task_one_is_granted(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register(slots=32)
    task = fronts[0].create()
    answers = at_once(50, lambda n: fronts[n].post(f"/llm-tasks/{task['id']}/lease"))
    assert by_status(answers) == {201: 1, 409: 49}
    assert {refused(answer, 409) for answer in answers if answer.status_code == 409} == {"not_queued"}
    assert database.value("select count(*) from bloom.leases") == 1
    assert fronts[0].task(task["id"])["attempts"] == 1
    check_invariants(database)


def test_a_worker_of_one_slot_gets_one_of_fifty_leases(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register()
    tasks = [fronts[0].create()["id"] for _ in range(50)]
    named = at_once(50, lambda n: fronts[n].post(f"/llm-tasks/{tasks[n]}/lease", {"worker_id": "worker"}))
    assert by_status(named) == {201: 1, 503: 49}
    assert {refused(answer, 503) for answer in named if answer.status_code == 503} == {"worker_not_free"}
    check_invariants(database)


def test_the_router_fills_workers_to_their_slots_and_no_further(fronts: Fronts, database: FreshDatabase) -> None:
    slots = {"a": 1, "b": 2, "c": 5}
    for name, count in slots.items():
        fronts[0].register(name, slots=count)
    tasks = [fronts[0].create()["id"] for _ in range(40)]
    answers = at_once(40, lambda n: fronts[n].post(f"/llm-tasks/{tasks[n]}/lease"))
    assert by_status(answers) == {201: 8, 503: 32}
    assert {refused(answer, 503) for answer in answers if answer.status_code == 503} == {"no_free_worker"}
    held = Counter(told(answer, 201)["lease"]["worker_id"] for answer in answers if answer.status_code == 201)
    assert held == slots
    assert {w["id"]: w["active_leases"] for w in told(fronts[0].get("/workers"))} == slots
    check_invariants(database)


def test_claims_at_once_never_share_a_task_nor_exceed_slots(fronts: Fronts, database: FreshDatabase) -> None:
    for name in ("a", "b", "c", "d"):
        fronts[0].register(name, slots=4)
    tasks = {fronts[0].create(context_id=f"context {n}")["id"] for n in range(20)}
    answers = at_once(24, lambda n: fronts[n // 4].claim("abcd"[n % 4], f"request {n}", slots=3))
    granted = [item for answer in answers for item in answer]
    # Claims that ran into each other's locks may have left something; whoever looks again gets it.
    for round_number in range(4):
        for name in ("a", "b", "c", "d"):
            granted += fronts[round_number].claim(name, f"round {round_number}", slots=4)
    given = [item["task"]["id"] for item in granted]
    assert len(given) == len(set(given)) == 16 and set(given) <= tasks
    assert Counter(item["lease"]["worker_id"] for item in granted) == dict.fromkeys("abcd", 4)
    check_invariants(database)


def test_claims_and_lease_calls_at_once_never_share_a_task(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register("claims", slots=32)
    fronts[0].register("named", slots=32)
    tasks = [fronts[0].create(context_id=f"context {n}")["id"] for n in range(20)]

    def call(n: int) -> list[str]:
        if n % 2:
            return [item["task"]["id"] for item in fronts[n // 2].claim("claims", f"request {n}", slots=2)]
        answer = fronts[n // 2].post(f"/llm-tasks/{tasks[n // 2]}/lease", {"worker_id": "named"})
        return [tasks[n // 2]] if answer.status_code == 201 else []

    given = [task_id for got in at_once(40, call) for task_id in got]
    assert len(given) == len(set(given))
    assert database.value("select count(*) from bloom.leases") == len(given)
    check_invariants(database)


def test_twenty_completions_at_once_leave_one_result(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register()
    task, lease = fronts[0].leased()
    answers = at_once(20, lambda n: fronts[n].complete(task["id"], lease["id"], output="the same"))
    # All name the lease and say the same: all are told the one outcome.
    outcomes = [told(answer) for answer in answers]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    counts = database.row("""
        select (select count(*) from bloom.results) as results, (select count(*) from bloom.artifacts) as artifacts,
               (select count(*) from bloom.audit_log where action = 'task_completed') as audits""")
    assert counts == {"results": 1, "artifacts": 1, "audits": 1}
    check_invariants(database)


def test_of_twenty_different_completions_at_once_one_is_taken(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register()
    task, lease = fronts[0].leased()

    def call(n: int) -> httpx.Response:
        named = lease["id"] if n % 2 else None
        return fronts[n].complete(task["id"], named, output=f"output {n}")

    answers = at_once(20, call)
    assert by_status(answers) == {200: 1, 409: 19}
    (taken,) = [told(answer) for answer in answers if answer.status_code == 200]
    assert {refused(a, 409) for a in answers if a.status_code == 409} <= {"already_completed", "not_leased"}
    (artifact,) = told(fronts[0].get("/artifacts"))
    assert artifact == taken["artifact"]
    assert database.value("select count(*) from bloom.results") == 1
    check_invariants(database)


def test_claims_with_one_request_id_at_once_get_the_same_leases(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register(slots=8)
    for n in range(10):
        fronts[0].create(context_id=f"context {n}")
    answers = at_once(12, lambda n: fronts[n].claim("worker", "the same", slots=3))
    leases = [[item["lease"]["id"] for item in answer] for answer in answers]
    assert len(leases[0]) == 3 and all(sorted(given) == sorted(leases[0]) for given in leases)
    assert database.value("select count(*) from bloom.leases") == 3
    assert sorted(i["lease"]["id"] for i in fronts[0].claim("worker", "the same", slots=3)) == sorted(leases[0])
    check_invariants(database)


def test_creations_with_one_idempotency_key_at_once_make_one_task(fronts: Fronts, database: FreshDatabase) -> None:
    body = {"context_id": "c", "agent_slug": "a", "prompt": "p"}
    answers = at_once(20, lambda n: fronts[n].post("/llm-tasks", body, **{"Idempotency-Key": "the same"}))
    assert by_status(answers) == {201: 1, 200: 19}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert database.value("select count(*) from bloom.tasks") == 1
    check_invariants(database)


def test_of_different_bodies_under_one_idempotency_key_one_becomes_a_task(
    fronts: Fronts, database: FreshDatabase
) -> None:
    def call(n: int) -> httpx.Response:
        body = {"context_id": "c", "agent_slug": "a", "prompt": f"p{n}", "idempotency_key": "k"}
        return fronts[n].post("/llm-tasks", body)

    answers = at_once(10, call)
    assert by_status(answers) == {201: 1, 409: 9}
    assert {refused(answer, 409) for answer in answers if answer.status_code == 409} == {"idempotency_key_reused"}
    assert database.value("select count(*) from bloom.tasks") == 1


def test_registrations_at_once_make_one_worker(fronts: Fronts, database: FreshDatabase) -> None:
    answers = at_once(20, lambda n: fronts[n].post("/workers", {"name": "w", "agent_version": str(n)}))
    assert by_status(answers) == {201: 1, 200: 19}
    actions = Counter(entry["action"] for entry in told(fronts[0].get("/audit")))
    assert actions == {"worker_registered": 1, "worker_updated": 19}


def test_cancels_and_requeues_at_once_take_effect_once_each(fronts: Fronts, database: FreshDatabase) -> None:
    task = fronts[0].create()
    cancels = at_once(10, lambda n: fronts[n].post(f"/llm-tasks/{task['id']}/cancel"))
    assert by_status(cancels) == {200: 1, 409: 9}
    requeues = at_once(10, lambda n: fronts[n].post(f"/llm-tasks/{task['id']}/requeue"))
    assert by_status(requeues) == {200: 1, 409: 9}
    assert [action for action, _ in fronts[0].audit(task["id"])] == ["task_created", "task_cancelled", "task_requeued"]


def test_the_same_events_sent_at_once_are_stored_once(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register()
    task, lease = fronts[0].leased()
    events = [{"seq": n, "type": "text", "data": {"n": n}} for n in range(1, 11)]
    body = {"lease_id": lease["id"], "events": events}
    answers: list[dict[str, Any]] = at_once(10, lambda n: told(fronts[n].post(f"/llm-tasks/{task['id']}/events", body)))
    assert sum(answer["accepted"] for answer in answers) == 10
    assert {answer["next_seq"] for answer in answers} == {11}
    check_invariants(database)


def test_past_a_full_queue_callers_get_503_and_are_told_when_to_come_back(
    runtime: Replica, database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    creations = runtime.services.tasks._creations  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(creations, "_max_waiting", 2)
    with database.connect(autocommit=False) as blocking, ThreadPoolExecutor(8) as callers:
        blocking.execute("lock table bloom.tasks in access exclusive mode")
        # Two may share the first batch and two wait behind it; nobody is answered before the lock is gone but the rest.
        calls = [callers.submit(runtime.post, "/llm-tasks", NEW) for _ in range(8)]
        turned_away, _ = wait(calls, PATIENCE_SEC, FIRST_COMPLETED)
        assert {call.result().headers["Retry-After"] for call in turned_away} == {"1"}
        assert {refused(call.result(), 503) for call in turned_away} == {"overloaded"}
        blocking.rollback()
        statuses = by_status([call.result() for call in calls])
    assert statuses[503] >= 4 and database.value("select count(*) from bloom.tasks") == statuses[201]
    assert told(runtime.post("/llm-tasks", NEW), 201)


def test_batches_in_opposite_order_do_not_deadlock(fronts: Fronts, database: FreshDatabase) -> None:
    fronts[0].register(slots=16)
    held = [fronts[0].leased(context_id=f"context {n}") for n in range(16)]

    def ordered(n: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return held if n % 2 else held[::-1]

    def keep(n: int) -> None:
        leases = [{"lease_id": lease["id"]} for _, lease in ordered(n)]
        told(fronts[n // 2].post("/workers/worker/extend", {"leases": leases}))
        for task, lease in ordered(n)[n % 4 :: 4]:
            told(fronts[n // 2].heartbeat(task["id"], lease["id"]))

    def report(n: int) -> None:
        error = {"status": "error", "error_message": str(n), "retryable": True, "metrics": {"duration_ms": 0}}
        items = [{"task_id": task["id"], "lease_id": lease["id"], **error} for task, lease in ordered(n)]
        told(fronts[n // 2].post("/workers/worker/complete", {"completions": items}))

    at_once(8, keep)
    at_once(8, report)
    # A backend tells its deadlocks when it ends at the latest.
    database.edit("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'bloom%%'"
                  " and datname = current_database()")  # fmt: skip
    assert database.value("select deadlocks from pg_stat_database where datname = current_database()") == 0
    check_invariants(database)
