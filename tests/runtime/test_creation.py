"""Creating: idempotency keys, and many at once."""

from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, at_once, refused, told
from tests.runtime.invariants import check_invariants

BODY: dict[str, Any] = {"context_id": "c", "agent_slug": "a", "prompt": "p"}


def by_header(runtime: Replica, key: str, **fields: Any) -> Any:
    return runtime.post("/llm-tasks", {**BODY, **fields}, **{"Idempotency-Key": key})


def test_the_same_idempotency_key_gets_the_same_task(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task = told(by_header(runtime, "k"), 201)
    before = database.dump()
    assert told(by_header(runtime, "k"), 200) == task
    assert told(runtime.post("/llm-tasks", {**BODY, "idempotency_key": "k"}), 200) == task
    assert told(by_header(runtime, "k", unknown="is ignored"), 200) == task
    assert database.dump() == before
    runtime.lease(task["id"])
    told(runtime.complete(task["id"]))
    # Whatever became of it.
    assert told(by_header(runtime, "k"), 200)["status"] == "completed"
    assert told(by_header(runtime, "other"), 201)["id"] != task["id"]
    check_invariants(database)


def test_a_key_in_the_body_goes_before_one_in_the_header(runtime: Replica) -> None:
    task = told(by_header(runtime, "header", idempotency_key="body"), 201)
    assert told(by_header(runtime, "body"), 200)["id"] == task["id"]
    assert told(by_header(runtime, "header"), 201)["id"] != task["id"]


@pytest.mark.parametrize("change", [{"prompt": "q"}, {"priority": 1}, {"labels": ["x"]}, {"policy": {"budget": 1}}])
def test_a_reused_key_with_another_body_is_refused(
    runtime: Replica, database: FreshDatabase, change: dict[str, Any]
) -> None:
    task = told(by_header(runtime, "k"), 201)
    before = database.dump()
    answer = by_header(runtime, "k", **change)
    assert refused(answer, 409) == "idempotency_key_reused" and answer.json()["task_id"] == task["id"]
    assert database.dump() == before
    # What is only said in full is the same body.
    assert told(by_header(runtime, "k", priority=0, labels=[], max_attempts=3), 200)["id"] == task["id"]


def test_a_key_is_forgotten_after_seven_days(runtime: Replica, database: FreshDatabase) -> None:
    task = told(by_header(runtime, "k"), 201)
    database.edit("update bloom.idempotency_keys set created_at = now() - interval '6 days 23 hours'")
    assert told(by_header(runtime, "k"), 200)["id"] == task["id"]
    database.edit("update bloom.idempotency_keys set created_at = now() - interval '7 days 1 second'")
    again = told(by_header(runtime, "k", prompt="another"), 201)
    assert again["id"] != task["id"]
    assert told(by_header(runtime, "k", prompt="another"), 200)["id"] == again["id"]


def test_a_batch_creates_in_order_and_answers_item_by_item(runtime: Replica, database: FreshDatabase) -> None:
    items = [{**BODY, "prompt": str(n), "context_id": str(n)} for n in range(1000)]
    results = told(runtime.post("/llm-tasks/batch", {"tasks": items}))["results"]
    assert [result["status"] for result in results] == [201] * 1000
    assert [result["task"]["prompt"] for result in results] == [str(n) for n in range(1000)]
    runtime.register(slots=32)
    granted = runtime.claim("worker", "r", slots=32)
    assert [item["task"]["prompt"] for item in granted] == [str(n) for n in range(32)]
    check_invariants(database)


def test_ten_full_batches_at_once_are_all_taken(runtime: Replica, database: FreshDatabase) -> None:
    answers = at_once(
        10, lambda n: runtime.post("/llm-tasks/batch", {"tasks": [{**BODY, "context_id": str(n)}] * 1000})
    )
    assert {result["status"] for answer in answers for result in told(answer)["results"]} == {201}
    assert database.value("select count(*) from bloom.tasks") == 10_000


def test_items_of_a_batch_may_repeat_keys(runtime: Replica, database: FreshDatabase) -> None:
    keyed = {**BODY, "idempotency_key": "k"}
    items = [keyed, BODY, keyed, {**keyed, "prompt": "another"}, {**BODY, "idempotency_key": "other"}]
    results = told(runtime.post("/llm-tasks/batch", {"tasks": items}))["results"]
    assert [result["status"] for result in results] == [201, 201, 200, 409, 201]
    assert results[0]["task"]["id"] == results[2]["task"]["id"]
    assert results[3]["code"] == "idempotency_key_reused"
    assert database.value("select count(*) from bloom.tasks") == 3
    check_invariants(database)
