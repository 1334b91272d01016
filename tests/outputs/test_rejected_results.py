"""What a worker finished under a lease that was no longer its own can be read, and changes nothing else."""

from typing import Any

import pytest
from tests.outputs.conftest import Held
from tests.outputs.uploads import named, put
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, refused, success, told
from tests.runtime.invariants import check_invariants

from bloom.db.pool import database_unavailable

MIB = 1024 * 1024


def report(api: Replica, lease: dict[str, Any], worker: str = "worker", **fields: Any) -> str:
    """Report on the worker plane; the outcome."""
    item = {**success(), "task_id": lease["task_id"], "lease_id": lease["id"], **fields}
    (outcome,) = told(api.post(f"/workers/{worker}/complete", {"completions": [item]}))["completions"]
    return outcome["outcome"]


def rejected(api: Replica, task_id: str) -> list[dict[str, Any]]:
    return [result for result in told(api.get(f"/llm-tasks/{task_id}/results")) if result.get("rejected")]


def lose(api: Replica, database: FreshDatabase, lease: dict[str, Any]) -> None:
    database.expire(lease["id"])
    assert api.reap() == [lease["task_id"]]


def test_work_that_was_finished_after_the_lease_was_reaped_can_be_read(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    lose(runtime, database, lease)
    before = database.dump()
    assert (
        report(runtime, lease, output="Too late, but good.", metrics={"duration_ms": 7, "cost_usd": 1.5})
        == "lease_lost"
    )
    assert {**database.dump(), "rejected_results": []} == before
    (late,) = rejected(runtime, task["id"])
    assert late["output"] == "Too late, but good." and late["metrics"] == {
        "duration_ms": 7, "cost_usd": 1.5, "tokens_used": None
    }  # fmt: skip
    assert (late["lease_id"], late["worker_id"], late["status"], late["reason"], late["artifact_id"]) == (
        lease["id"], "worker", "success", "lease_expired", None
    )  # fmt: skip
    check_invariants(database)


def test_it_stands_beside_the_result_that_was_taken(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, stale = held
    lose(runtime, database, stale)
    fresh = runtime.lease(task["id"])
    assert report(runtime, stale, output="late") == "lease_lost"
    assert report(runtime, fresh, output="in time") == "ok"
    assert report(runtime, stale, output="late") == "lease_lost"
    late, taken = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert (late["output"], late.get("rejected"), taken["output"], "rejected" in taken) == (
        "late",
        True,
        "in time",
        False,
    )
    assert runtime.task(task["id"])["status"] == "completed"
    check_invariants(database)


def test_the_first_report_of_a_lost_lease_stays(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    lose(runtime, database, lease)
    for output in ("first", "first", "second"):
        assert report(runtime, lease, output=output) == "lease_lost"
    assert [late["output"] for late in rejected(runtime, task["id"])] == ["first"]


def test_an_error_that_comes_too_late_is_kept_with_its_reason(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    lose(runtime, database, lease)
    report(
        runtime, lease, status="error", output="half of it", error_message="It broke.", code="broken", retryable=True
    )
    (late,) = rejected(runtime, task["id"])
    assert (late["status"], late["output"], late["error_message"], late["code"]) == (
        "error", "half of it", "It broke.", "broken"
    )  # fmt: skip


def test_work_of_a_worker_that_was_removed_can_be_read(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    told(runtime.delete("/workers/worker"))
    assert report(runtime, lease, output="finished") == "lease_lost"
    assert [(late["output"], late["reason"]) for late in rejected(runtime, task["id"])] == [("finished", "lease_ended")]
    check_invariants(database)


@pytest.mark.parametrize("stranger", ["other worker", "other task", "no such lease"])
def test_nothing_is_kept_for_who_never_held_the_lease(
    runtime: Replica, database: FreshDatabase, held: Held, stranger: str
) -> None:
    _, lease = held
    runtime.register("other")
    lose(runtime, database, lease)
    named_lease = {
        "other worker": lease,
        "other task": {**lease, "task_id": runtime.create()["id"]},
        "no such lease": {**lease, "id": "none"},
    }[stranger]
    assert report(runtime, named_lease, "other" if stranger == "other worker" else "worker") == "lease_lost"
    assert database.value("select count(*) from bloom.rejected_results") == 0


def test_nothing_is_kept_of_a_hand_back_or_of_a_lease_that_has_its_result(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register()
    task, lease = runtime.leased()
    assert report(runtime, lease, status="error", hand_back=True) == "ok"
    assert report(runtime, lease, status="error", hand_back=True) == "lease_lost"
    again = runtime.lease(task["id"])
    assert report(runtime, again, output="a") == "ok"
    assert report(runtime, again, output="b") == "already_completed"
    assert report(runtime, again, "another", output="a") in ("ok", "already_completed", "lease_lost")
    assert database.value("select count(*) from bloom.rejected_results") == 0


def test_a_long_output_is_kept_to_a_mebibyte_and_shown_whole_by_its_own_route(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    lose(runtime, database, lease)
    output = "é" * (MIB + 10)
    report(runtime, lease, output=output)
    (late,) = rejected(runtime, task["id"])
    assert (late["output"], late["truncated"]) == (output[: 64 * 1024], True)
    path = f"/llm-tasks/{task['id']}/results/{late['id']}"
    whole = told(runtime.get(path))
    assert (whole["output"], whole["truncated"], whole["rejected"]) == (output[:MIB], True, True)
    other = runtime.create()
    assert refused(runtime.get(f"/llm-tasks/{other['id']}/results/{late['id']}"), 404) == "result_not_found"


def test_the_whole_output_of_an_error_is_shown_by_its_own_route(runtime: Replica, held: Held) -> None:
    task, lease = held
    output = "x" * 100_000
    failed = told(runtime.fail(task["id"], lease["id"], output=output))
    (listed,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert (len(listed["output"]), listed["truncated"]) == (64 * 1024, True)
    whole = told(runtime.get(f"/llm-tasks/{task['id']}/results/{failed['result']['id']}"))
    assert whole["output"] == output and "truncated" not in whole


def test_the_beginning_of_an_uploaded_output_is_kept(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    output = b"0123456789abcdef" * (2 * MIB // 16)
    up = told(put(runtime, lease, 0, output))
    lose(runtime, database, lease)
    assert report(runtime, lease, **named(output, up["output_ref"])) == "lease_lost"
    (late,) = rejected(runtime, task["id"])
    whole = told(runtime.get(f"/llm-tasks/{task['id']}/results/{late['id']}"))
    assert whole["output"] == output[:MIB].decode() and whole["truncated"] is True


def test_of_one_task_only_the_newest_twenty_are_kept(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    for n in range(25):
        lose(runtime, database, lease)
        assert report(runtime, lease, output=f"{n}") == "lease_lost"
        database.edit("update bloom.tasks set attempts = 0")
        runtime.register()
        lease = runtime.lease(task["id"])
    assert [late["output"] for late in rejected(runtime, task["id"])] == [f"{n}" for n in range(5, 25)]


def test_who_follows_the_task_hears_of_the_taken_result_alone(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, stale = held
    lose(runtime, database, stale)
    fresh = runtime.lease(task["id"])
    told(runtime.complete(task["id"], fresh["id"], output="taken"))
    assert report(runtime, stale, output="late") == "lease_lost"
    with runtime.http.stream("GET", f"/llm-tasks/{task['id']}/stream") as answer:
        text = answer.read().decode()
    assert '"output":"taken"' in text and "late" not in text


def test_a_report_that_the_database_could_not_take_is_one_to_send_again(
    runtime: Replica, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever code the trouble has: a worker gives a report up whose outcome it takes for final."""
    task, lease = held

    async def fail(*_: object, **__: object) -> None:
        raise database_unavailable()

    with monkeypatch.context() as away:
        away.setattr(runtime.services.completing, "report_many", fail)
        assert report(runtime, lease) == "unavailable"
    assert report(runtime, lease) == "ok"
    assert rejected(runtime, task["id"]) == []
