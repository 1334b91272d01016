"""Who gets which task, and when: routing, labels, priority, order, run_at and concurrency keys."""

import time
from collections.abc import Iterable
from typing import Any

import pytest
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, in_background, refused, told
from tests.runtime.invariants import check_invariants

from bloom.server import maintenance


def ids(granted: Iterable[dict[str, Any]]) -> list[str]:
    return [item["task"]["id"] for item in granted]


def try_to_lease(runtime: Replica, task: dict[str, Any], worker_id: str | None = None) -> Any:
    return runtime.post(f"/llm-tasks/{task['id']}/lease", {} if worker_id is None else {"worker_id": worker_id})


def wait_for_claim(database: FreshDatabase, worker_id: str) -> None:
    """Let the worker's claim wait, as far as others can see."""
    assert database.edit(
        "update bloom.workers set claims = true, polling_until = now() + interval '1 minute' where id = %(id)s",
        id=worker_id,
    )


# --- the lease call ---------------------------------------------------------------------------------------------------


def task_that_nobody_can(runtime: Replica) -> dict[str, Any]:
    """A new task, and workers called by what keeps each of them from it."""
    for status in ("offline", "syncing", "error", "unknown"):
        runtime.register(status, status=status)
    runtime.register("draining")
    told(runtime.post("/workers/draining/drain"))
    runtime.register("full")
    runtime.leased("full", context_id="other")
    runtime.register("unlabelled")
    return runtime.create(labels=["gpu"])


def test_the_router_takes_only_workers_that_can(runtime: Replica, database: FreshDatabase) -> None:
    task = task_that_nobody_can(runtime)
    runtime.register("no cli", capabilities={"claude_cli": False, "labels": ["gpu"]})
    before = database.dump()
    answer = try_to_lease(runtime, task)
    assert refused(answer, 503) == "no_free_worker" and answer.headers["Retry-After"].isdigit()
    assert database.dump() == before
    runtime.register("able", capabilities={"labels": ["gpu", "more"]})
    assert runtime.lease(task["id"])["worker_id"] == "able"


def test_a_named_worker_that_cannot_is_refused_by_name(runtime: Replica, database: FreshDatabase) -> None:
    task = task_that_nobody_can(runtime)
    before = database.dump()
    for name in ("offline", "syncing", "error", "unknown", "draining", "full", "unlabelled"):
        answer = try_to_lease(runtime, task, name)
        assert refused(answer, 503) == "worker_not_free" and name in answer.json()["error"]
    assert database.dump() == before


def test_the_worker_with_most_free_slots_is_chosen(runtime: Replica) -> None:
    runtime.register("few", slots=2)
    runtime.register("many", slots=4)
    chosen = [runtime.lease(runtime.create(context_id=f"c{n}")["id"])["worker_id"] for n in range(6)]
    assert chosen[:2] == ["many", "many"] and sorted(chosen) == ["few"] * 2 + ["many"] * 4


def test_the_worker_that_last_ran_the_context_is_preferred(runtime: Replica) -> None:
    runtime.register("small", slots=2)
    runtime.register("big", slots=10)
    first, _ = runtime.leased("small", context_id="project")
    assert runtime.lease(runtime.create(context_id="project")["id"])["worker_id"] == "small"
    # Full: then the other one, which is then the last.
    assert runtime.lease(runtime.create(context_id="project")["id"])["worker_id"] == "big"
    told(runtime.complete(first["id"]))
    assert runtime.lease(runtime.create(context_id="project")["id"])["worker_id"] == "big"


# --- the claim --------------------------------------------------------------------------------------------------------


def test_claims_take_higher_priority_first_then_the_older(runtime: Replica) -> None:
    runtime.register(slots=32)
    low, plain, plain2, high, high2 = [
        runtime.create(priority=priority, context_id=f"c{n}")["id"] for n, priority in enumerate((-1, 0, 0, 5, 5))
    ]
    assert ids(runtime.claim("worker", "r1", slots=2)) == [high, high2]
    assert ids(runtime.claim("worker", "r2", slots=2)) == [plain, plain2]
    assert ids(runtime.claim("worker", "r3", slots=2)) == [low]
    assert runtime.claim("worker", "r4", slots=2) == []


def test_a_retried_task_keeps_its_place_in_the_queue(runtime: Replica) -> None:
    runtime.register(slots=4)
    first, second = runtime.create()["id"], runtime.create()["id"]
    assert ids(runtime.claim("worker", "r1")) == [first]
    told(runtime.fail(first, retryable=True, retry_after_sec=0))
    assert ids(runtime.claim("worker", "r2", slots=2)) == [first, second]


def test_a_claim_gets_what_its_labels_allow(runtime: Replica) -> None:
    runtime.register("plain", slots=4)
    runtime.register("gpu", slots=4, capabilities={"labels": ["gpu"]})
    runtime.register("all", slots=4, capabilities={"labels": ["gpu", "big"]})
    both, gpu, none = [
        runtime.create(labels=labels, context_id=str(labels))["id"] for labels in (["big", "gpu"], ["gpu"], [])
    ]
    assert ids(runtime.claim("plain", "r", slots=1)) == [none]
    assert ids(runtime.claim("gpu", "r", slots=4)) == [gpu]
    assert ids(runtime.claim("all", "r", slots=4)) == [both]


def test_a_claim_gets_no_more_than_its_slots_and_the_workers(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=3)
    for n in range(6):
        runtime.create(context_id=f"c{n}")
    assert len(runtime.claim("worker", "r1", slots=2)) == 2
    assert len(runtime.claim("worker", "r2", slots=32)) == 1
    assert runtime.claim("worker", "r3", slots=32) == []
    check_invariants(database)


def test_the_same_request_id_again_gets_the_same_leases_whatever_became_of_them(runtime: Replica) -> None:
    runtime.register(slots=4)
    for n in range(3):
        runtime.create(context_id=f"c{n}")
    first = runtime.claim("worker", "r1", slots=2)
    again = runtime.claim("worker", "r1", slots=2)
    assert [item["lease"] for item in again] == [item["lease"] for item in first]
    told(runtime.complete(first[0]["task"]["id"]))
    third = runtime.claim("worker", "r1", slots=2)
    assert [item["lease"]["id"] for item in third] == [item["lease"]["id"] for item in first]
    assert [item["lease"]["status"] for item in third] == ["released", "active"]
    runtime.register("other", slots=4)
    assert len(runtime.claim("other", "r1", slots=4)) == 1


def test_a_fresh_task_waits_a_second_for_the_waiting_worker_of_its_context(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register("home")
    runtime.register("other", slots=8)
    first, _ = runtime.leased("home", context_id="project")
    told(runtime.complete(first["id"]))
    wait_for_claim(database, "home")
    task = runtime.create(context_id="project")["id"]
    free = runtime.create(context_id="elsewhere")["id"]
    assert ids(runtime.claim("other", "r1", slots=8)) == [free]
    assert ids(runtime.claim("home", "r1")) == [task]
    told(runtime.complete(task))

    wait_for_claim(database, "home")
    late = runtime.create(context_id="project")["id"]
    database.edit("update bloom.tasks set updated_at = now() - interval '1.1 s' where id = %(id)s", id=late)
    assert ids(runtime.claim("other", "r2")) == [late]


def test_a_fresh_task_does_not_wait_for_a_worker_that_does_not_wait_or_cannot(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register("home")
    runtime.register("other", slots=8)
    first, _ = runtime.leased("home", context_id="project")
    told(runtime.complete(first["id"]))
    assert len(ids([*runtime.claim("other", "r0")])) == 0
    cases: dict[str, str] = {
        "not waiting": "update bloom.workers set polling_until = null where id = 'home'",
        "offline": "update bloom.workers set status = 'offline', polling_until = now() + interval '1 h' where id = 'home'",
        "draining": "update bloom.workers set draining = true, status = 'online' where id = 'home'",
    }
    for name, change in cases.items():
        # The context's last worker must be `home` each time.
        database.edit("delete from bloom.leases where worker_id = 'other'")
        with database.connect() as connection:
            connection.execute(change.encode())
        task = runtime.create(context_id="project")["id"]
        assert ids(runtime.claim("other", name)) == [task]
        database.edit("delete from bloom.tasks where id = %(id)s", id=task)


# --- run_at -----------------------------------------------------------------------------------------------------------


def test_a_task_is_not_leased_before_its_time(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=4)
    task = runtime.create(run_at=int(time.time() * 1000) + 3_600_000)
    assert refused(try_to_lease(runtime, task), 409) == "not_due"
    assert refused(try_to_lease(runtime, task, "worker"), 409) == "not_due"
    assert runtime.claim("worker", "r1") == []
    database.make_due(task["id"])
    assert ids(runtime.claim("worker", "r2")) == [task["id"]]
    other = runtime.create(run_at=int(time.time() * 1000) + 3_600_000)
    database.make_due(other["id"])
    runtime.lease(other["id"])
    past = runtime.create(run_at=0)
    runtime.lease(past["id"])
    check_invariants(database)


@pytest.mark.parametrize("waits_for", ["run_at", "backoff"])
def test_a_waiting_claim_gets_a_task_as_soon_as_its_time_has_come(
    start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    monkeypatch.setattr(maintenance, "DUE_AT_LEAST_EVERY_SEC", 1000)
    here, there = start_replica(maintenance=True), start_replica(maintenance=True)
    here.until_listening()
    there.until_listening()
    here.register("other")
    here.register()
    retried = here.leased("other")[0]["id"]
    with in_background(lambda: here.claim("worker", "r", wait_sec=30)) as claim:
        eventually(lambda: here.services.granting.watch.claims)
        if waits_for == "run_at":
            task = there.create(run_at=int(time.time() * 1000) + 300)["id"]
        else:
            task = retried
            told(there.fail(task, retryable=True, retry_after_sec=0.3))
        (granted,) = claim.result(5)
    assert granted["task"]["id"] == task
    assert granted["lease"]["started_at"] >= granted["task"]["run_at"]


# --- concurrency keys -------------------------------------------------------------------------------------------------


def test_tasks_of_one_concurrency_key_run_one_at_a_time_in_order(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=16)
    first, second, third = [runtime.create(concurrency_key="k", priority=n, context_id=f"c{n}") for n in range(3)]
    free = runtime.create(concurrency_key="other", context_id="free")
    assert refused(try_to_lease(runtime, second), 409) == "busy"
    assert sorted(ids(runtime.claim("worker", "r1", slots=8))) == sorted([first["id"], free["id"]])
    assert runtime.claim("worker", "r2", slots=8) == []
    assert refused(try_to_lease(runtime, second), 409) == "busy"
    told(runtime.complete(first["id"]))
    assert refused(try_to_lease(runtime, third), 409) == "busy"
    assert ids(runtime.claim("worker", "r3", slots=8)) == [second["id"]]
    # Back in the queue it still goes first.
    told(runtime.fail(second["id"], retryable=True, retry_after_sec=3600))
    assert runtime.claim("worker", "r4", slots=8) == [] and refused(try_to_lease(runtime, third), 409) == "busy"
    database.make_due(second["id"])
    assert ids(runtime.claim("worker", "r5", slots=8)) == [second["id"]]
    told(runtime.fail(second["id"]))
    assert ids(runtime.claim("worker", "r6", slots=8)) == [third["id"]]
    check_invariants(database)


def test_a_cancelled_task_no_longer_blocks_its_concurrency_key(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=4)
    first, second = runtime.create(concurrency_key="k"), runtime.create(concurrency_key="k")
    told(runtime.post(f"/llm-tasks/{first['id']}/cancel"))
    runtime.lease(second["id"])
    told(runtime.post(f"/llm-tasks/{first['id']}/requeue"))
    assert refused(try_to_lease(runtime, first), 409) == "busy"
    check_invariants(database)
