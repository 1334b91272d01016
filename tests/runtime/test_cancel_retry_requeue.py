"""Cancelling, retrying with a backoff, handing back, and requeueing."""

from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, refused, told
from tests.runtime.invariants import check_invariants


@pytest.fixture(autouse=True)
def worker(runtime: Replica) -> None:
    runtime.register(slots=8)


def cancel(runtime: Replica, task_id: str) -> Any:
    return runtime.post(f"/llm-tasks/{task_id}/cancel")


def requeue(runtime: Replica, task_id: str) -> Any:
    return runtime.post(f"/llm-tasks/{task_id}/requeue")


def seconds_to_run(database: FreshDatabase, task_id: str) -> float | None:
    """How far ahead of its last change the task's next run lies."""
    return database.value(
        "select extract(epoch from run_at - updated_at)::float8 from bloom.tasks where id = %(id)s", id=task_id
    )


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_a_queued_task_is_cancelled_at_once(runtime: Replica, database: FreshDatabase) -> None:
    task = runtime.create()
    cancelled = told(cancel(runtime, task["id"]))
    assert cancelled["status"] == "cancelled" == runtime.task(task["id"])["status"]
    assert runtime.audit(task["id"])[-1] == ("task_cancelled", "local")
    assert runtime.claim("worker", "r") == []
    assert refused(cancel(runtime, task["id"]), 409) == "already_final"
    check_invariants(database)


@pytest.mark.parametrize("running", [False, True], ids=["leased", "running"])
def test_the_holder_of_a_cancelled_task_is_told_and_ends_it(
    runtime: Replica, database: FreshDatabase, running: bool
) -> None:
    task, lease = runtime.leased()
    if running:
        told(runtime.heartbeat(task["id"]))
    state = "running" if running else "leased"
    asked = told(cancel(runtime, task["id"]))
    assert (asked["status"], asked["cancel_requested"]) == (state, True)
    before = database.dump()
    assert told(cancel(runtime, task["id"]))["status"] == state
    assert database.dump() == before

    assert refused(runtime.heartbeat(task["id"]), 409) == "cancelled"
    assert refused(runtime.heartbeat(task["id"], lease["id"]), 409) == "cancelled"
    (outcome,) = told(runtime.post("/workers/worker/extend", {"leases": [{"lease_id": lease["id"]}]}))["leases"]
    assert outcome["outcome"] == "cancel"
    events = {"lease_id": lease["id"], "events": [{"seq": 1, "type": "text"}]}
    assert told(runtime.post(f"/llm-tasks/{task['id']}/events", events))["cancel"] is True
    assert runtime.task(task["id"])["status"] == state

    assert refused(runtime.fail(task["id"], lease["id"], code="cancelled"), 409) == "cancelled"
    ended = runtime.task(task["id"])
    assert ended["status"] == "cancelled" and ended["cancel_requested"] is True
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert (result["status"], result["code"]) == ("error", "cancelled")
    assert [action for action, _ in runtime.audit(task["id"])][-2:] == ["task_cancel_requested", "task_cancelled"]
    check_invariants(database)


def test_a_completion_after_a_cancel_is_refused_and_the_task_is_cancelled(
    runtime: Replica, database: FreshDatabase
) -> None:
    task, lease = runtime.leased()
    told(cancel(runtime, task["id"]))
    assert refused(runtime.complete(task["id"], lease["id"], output="done"), 409) == "cancelled"
    assert runtime.task(task["id"])["status"] == "cancelled"
    assert told(runtime.get("/artifacts")) == []
    before = database.dump()
    for named in (lease["id"], None):
        assert refused(runtime.complete(task["id"], named, output="done"), 409) == "cancelled"
        assert refused(runtime.heartbeat(task["id"], named), 409) == "cancelled"
    assert database.dump() == before
    check_invariants(database)


def test_a_cancel_after_a_completion_is_refused(runtime: Replica, database: FreshDatabase) -> None:
    task, _ = runtime.leased()
    told(runtime.complete(task["id"]))
    before = database.dump()
    assert refused(cancel(runtime, task["id"]), 409) == "already_final"
    assert database.dump() == before


def test_a_task_that_was_to_be_cancelled_is_so_when_its_lease_is_reaped(
    runtime: Replica, database: FreshDatabase
) -> None:
    task, lease = runtime.leased()
    told(cancel(runtime, task["id"]))
    database.expire(lease["id"])
    assert runtime.reap() == [task["id"]]
    assert runtime.task(task["id"])["status"] == "cancelled"
    assert runtime.audit(task["id"])[-1] == ("task_cancelled", "system:reaper")
    check_invariants(database)


@pytest.mark.parametrize("report", [{"retryable": True}, {"hand_back": True}, {}], ids=["retry", "hand back", "fail"])
def test_a_task_that_was_to_be_cancelled_does_not_go_back(
    runtime: Replica, database: FreshDatabase, report: dict[str, Any]
) -> None:
    task, lease = runtime.leased()
    told(cancel(runtime, task["id"]))
    assert refused(runtime.fail(task["id"], lease["id"], **report), 409) == "cancelled"
    assert runtime.task(task["id"])["status"] == "cancelled"
    check_invariants(database)


def test_a_task_that_was_to_be_cancelled_is_so_when_its_worker_is_removed(
    runtime: Replica, database: FreshDatabase
) -> None:
    task, _ = runtime.leased()
    told(cancel(runtime, task["id"]))
    told(runtime.delete("/workers/worker"))
    assert runtime.task(task["id"])["status"] == "cancelled"
    check_invariants(database)


# --- retry, hand back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        ({"base_sec": 8}, [8, 16, 32]),
        ({"base_sec": 100, "max_sec": 150}, [100, 150, 150]),
        ({"base_sec": 9, "max_sec": 5}, [5, 5, 5]),
        ({}, [2, 4, 8]),
    ],
    ids=["doubles", "up to the most", "the most is less than the first", "by default"],
)
def test_a_retryable_error_waits_ever_longer_with_jitter(
    runtime: Replica, database: FreshDatabase, retry: dict[str, float], expected: list[float]
) -> None:
    task = runtime.create(retry=retry, max_attempts=4)
    for full in expected:
        runtime.lease(task["id"])
        done = told(runtime.fail(task["id"], retryable=True, code="overloaded"))
        assert (done["task"]["status"], done["task"]["lease_id"], done["task"]["worker_id"]) == ("queued", None, None)
        assert done["result"]["status"] == "error" and done["artifact"] is None
        waits = seconds_to_run(database, task["id"])
        assert waits is not None and full / 2 <= waits <= full
        assert done["task"]["run_at"] is not None
        assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_due"
        assert runtime.claim("worker", f"after {full}") == []
        database.make_due(task["id"])
    runtime.lease(task["id"])
    dead = told(runtime.fail(task["id"], retryable=True))["task"]
    assert (dead["status"], dead["attempts"]) == ("dead", 4)
    assert [action for action, _ in runtime.audit(task["id"])] == [
        "task_created", *["task_leased", "task_retried"] * 3, "task_leased", "task_dead"
    ]  # fmt: skip
    assert len(told(runtime.get(f"/llm-tasks/{task['id']}/results"))) == 4
    check_invariants(database)


def test_the_jitter_is_not_always_the_same(runtime: Replica, database: FreshDatabase) -> None:
    waits: set[float | None] = set()
    for n in range(8):
        task, _ = runtime.leased(context_id=str(n), retry={"base_sec": 1000, "max_sec": 1000})
        told(runtime.fail(task["id"], retryable=True))
        waits.add(seconds_to_run(database, task["id"]))
    assert len(waits) > 1


@pytest.mark.parametrize("seconds", [0, 0.5, 3600, 30 * 86_400])
def test_an_error_can_say_how_long_to_wait(runtime: Replica, database: FreshDatabase, seconds: float) -> None:
    task, _ = runtime.leased()
    told(runtime.fail(task["id"], retryable=True, retry_after_sec=seconds))
    assert seconds_to_run(database, task["id"]) == seconds
    if seconds == 0:
        runtime.lease(task["id"])
    elif seconds > 1:
        assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_due"


def test_an_error_that_is_not_retryable_fails_the_task_whatever_it_says(runtime: Replica) -> None:
    task, _ = runtime.leased()
    assert told(runtime.fail(task["id"], retry_after_sec=5))["task"]["status"] == "failed"


def test_a_retryable_success_is_a_success(runtime: Replica) -> None:
    task, _ = runtime.leased()
    assert told(runtime.complete(task["id"], retryable=True))["task"]["status"] == "completed"


@pytest.mark.parametrize("status", ["error", "success"])
def test_handing_a_task_back_burns_no_attempt(runtime: Replica, database: FreshDatabase, status: str) -> None:
    task = runtime.create(max_attempts=1)
    for _ in range(3):
        runtime.lease(task["id"])
        assert runtime.task(task["id"])["attempts"] == 1
        done = told(runtime.complete(task["id"], status=status, hand_back=True))
        assert (done["task"]["status"], done["task"]["attempts"]) == ("queued", 0)
        assert done["result"] is None and done["artifact"] is None
    assert told(runtime.get("/artifacts")) == [] and told(runtime.get(f"/llm-tasks/{task['id']}/results")) == []
    runtime.lease(task["id"])
    told(runtime.complete(task["id"]))
    check_invariants(database)


def test_repeating_an_error_report_answers_with_the_first_outcome(runtime: Replica, database: FreshDatabase) -> None:
    task, lease = runtime.leased()
    first = told(runtime.fail(task["id"], lease["id"], retryable=True))
    before = database.dump()
    assert told(runtime.fail(task["id"], lease["id"], retryable=True)) == first
    assert refused(runtime.complete(task["id"], lease["id"]), 409) == "already_completed"
    assert database.dump() == before


def test_an_error_whose_code_is_cancelled_is_repeated_like_any_other(runtime: Replica) -> None:
    task, lease = runtime.leased()
    first = told(runtime.fail(task["id"], lease["id"], code="cancelled"))
    assert first["task"]["status"] == "failed"
    assert told(runtime.fail(task["id"], lease["id"], code="cancelled")) == first


# --- requeue ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "dead", "cancelled", "cancelled while held"])
def test_an_ended_task_is_requeued_with_all_its_attempts(runtime: Replica, database: FreshDatabase, state: str) -> None:
    task = runtime.create(max_attempts=1)
    if state != "cancelled":
        runtime.lease(task["id"])
    if state.startswith("cancelled"):
        told(cancel(runtime, task["id"]))
    if state != "cancelled":
        runtime.fail(task["id"], retryable=state == "dead")
    assert runtime.task(task["id"])["status"] == state.split()[0]
    back = told(requeue(runtime, task["id"]))
    assert (back["status"], back["attempts"], back["lease_id"], back["worker_id"], back["run_at"]) == (
        "queued", 0, None, None, None
    )  # fmt: skip
    assert back["cancel_requested"] is False
    assert runtime.audit(task["id"])[-1] == ("task_requeued", "local")
    (granted,) = runtime.claim("worker", "again")
    assert granted["task"]["id"] == task["id"] and granted["task"]["attempts"] == 1
    told(runtime.complete(task["id"]))
    check_invariants(database)


def test_a_task_that_is_not_ended_or_is_completed_is_not_requeued(runtime: Replica, database: FreshDatabase) -> None:
    queued = runtime.create()
    leased, _ = runtime.leased()
    running, _ = runtime.leased()
    told(runtime.heartbeat(running["id"]))
    completed, _ = runtime.leased()
    told(runtime.complete(completed["id"]))
    before = database.dump()
    for task in (queued, leased, running, completed):
        assert refused(requeue(runtime, task["id"]), 409) == "not_requeueable"
    assert database.dump() == before


def test_a_stale_holder_of_a_requeued_task_changes_nothing(runtime: Replica, database: FreshDatabase) -> None:
    task, lease = runtime.leased()
    told(runtime.fail(task["id"], lease["id"]))
    told(requeue(runtime, task["id"]))
    before = database.dump()
    assert refused(runtime.complete(task["id"], lease["id"]), 409) == "already_completed"
    assert refused(runtime.heartbeat(task["id"], lease["id"]), 409) == "lease_lost"
    assert database.dump() == before
