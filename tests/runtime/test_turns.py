"""Claims do not look at tasks that cannot be theirs: those behind a busy concurrency key, or with labels nobody carries."""

import json
import random
from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, in_background, told
from tests.runtime.invariants import check_invariants

from bloom.db.queries import load_queries

LEASES = load_queries("bloom.tasks.store", "leases.sql")
TASKS = load_queries("bloom.tasks.store", "tasks.sql")
FEW_PAGES = 60


def pages_of_a_claim(database: FreshDatabase, labels: list[str]) -> int:
    """How many pages the search for the candidates of one free slot touches."""
    params: dict[str, Any] = {
        "groups": json.dumps([{"n": 0, "labels": labels, "slots": 1}]),
        "workers": [],
        "seen": [],
        "now": None,
    }
    with database.connect(autocommit=False) as connection:
        query = b"explain (analyze, buffers, format json) " + LEASES["lock_candidates"]
        ((found,),) = (row.values() for row in connection.execute(query, params).fetchall())
        connection.rollback()
    plan = found[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def test_a_claim_does_not_walk_through_what_waits_for_labels_that_it_lacks(
    runtime: Replica, database: FreshDatabase
) -> None:
    database.edit("""
        insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, priority,
                                 labels)
        select 'q' || n, 'c', 'a', 'p', 1, 0, 'text', 'queued', 9,
               case n %% 3 when 0 then array['gpu'] when 1 then array['x' || n] else array['eu', 'x' || n] end
        from generate_series(1, 20000) n""")
    database.edit("analyze bloom.tasks")
    for labels in ([], ["eu"], ["a", "eu", "zz"]):
        assert pages_of_a_claim(database, labels) < FEW_PAGES
    task = runtime.create(labels=["eu"])
    runtime.register(capabilities={"labels": ["zz", "eu"]})
    (claimed,) = runtime.claim("worker", "one")
    assert claimed["task"]["id"] == task["id"]


KEYED: dict[str, Any] = {"context_id": "c", "agent_slug": "a", "prompt": "p", "priority": 9, "concurrency_key": "busy"}


def create_many(api: Replica, count: int) -> list[str]:
    """New tasks that share a concurrency key; their ids in the order of the queue."""
    items = told(api.post("/llm-tasks/batch", {"tasks": [KEYED] * count}))["results"]
    return [item["task"]["id"] for item in items]


def test_a_claim_does_not_walk_through_what_waits_for_a_concurrency_key(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register(slots=2)
    waiting = [*create_many(runtime, 1000), *create_many(runtime, 1000)]
    (claimed,) = runtime.claim("worker", "one", slots=2)
    assert claimed["task"]["id"] == waiting[0]
    database.edit("analyze bloom.tasks")
    assert pages_of_a_claim(database, []) < FEW_PAGES
    other = runtime.create()
    assert [item["task"]["id"] for item in runtime.claim("worker", "two")] == [other["id"]]


def test_each_end_of_a_task_passes_its_turn_on(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    ids = create_many(runtime, 7)
    rounds = iter(range(100))

    def claim() -> dict[str, Any]:
        (claimed,) = runtime.claim("worker", f"round {next(rounds)}")
        return claimed["lease"]

    def is_next(task_id: str) -> dict[str, Any]:
        lease = claim()
        assert lease["task_id"] == task_id
        return lease

    told(runtime.complete(ids[0], is_next(ids[0])["id"]))
    told(runtime.fail(ids[1], is_next(ids[1])["id"]))
    told(runtime.post(f"/llm-tasks/{ids[2]}/cancel"))
    lease = is_next(ids[3])
    told(runtime.post(f"/llm-tasks/{ids[4]}/cancel"))
    told(runtime.post(f"/llm-tasks/{ids[3]}/cancel"))
    database.expire(lease["id"])
    assert runtime.reap() == [ids[3]]
    lease = is_next(ids[5])
    told(runtime.post(f"/llm-tasks/{ids[5]}/cancel"))
    told(runtime.delete("/workers/worker"))
    runtime.register()
    lease = is_next(ids[6])
    told(runtime.post(f"/llm-tasks/{ids[1]}/requeue"))
    told(runtime.fail(ids[6], lease["id"], retryable=True, retry_after_sec=0))
    told(runtime.complete(ids[1], is_next(ids[1])["id"]))
    told(runtime.complete(ids[6], is_next(ids[6])["id"]))
    check_invariants(database)


def test_a_task_created_while_the_holder_of_its_key_ends_gets_its_turn(
    runtime: Replica, database: FreshDatabase
) -> None:
    """Both orders: who ends the holder waits for a creation that saw it; a creation that finds the holder locked by who
    ends it does not wait, and needs nobody to pass it the turn.
    """
    runtime.register()
    (first,) = create_many(runtime, 1)
    (claimed,) = runtime.claim("worker", "one")
    row = database.row("""select context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format, priority,
                                 labels, concurrency_key, retry_base_sec, retry_max_sec, max_attempts
                          from bloom.tasks""")
    new = {**row, "id": "late", "scope": "s", "idempotency_key": None, "digest": "", "actor": "a", "run_at": None}
    with database.connect(autocommit=False) as creator:
        creator.execute(TASKS["insert_many"], {"items": json.dumps([new]), "now": None})
        with in_background(lambda: runtime.complete(first, claimed["lease"]["id"])) as completed:
            database.wait_until_blocked()
            creator.commit()
            told(completed.result())
    assert not database.value("select status <> 'queued' or not turn from bloom.tasks where id = 'late'")
    (claimed,) = runtime.claim("worker", "two")
    assert claimed["task"]["id"] == "late"

    with database.connect(autocommit=False) as ender:
        ender.execute(LEASES["lock_tasks"], {"ids": ["late"]})
        with in_background(lambda: runtime.complete("late", claimed["lease"]["id"])) as completed:
            database.wait_until_blocked()
            (last,) = create_many(runtime, 1)
            ender.rollback()
            told(completed.result())
    (claimed,) = runtime.claim("worker", "three")
    assert claimed["task"]["id"] == last


def test_a_turn_that_an_older_release_forgot_to_pass_is_found(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    first, second, third = create_many(runtime, 3)
    runtime.claim("worker", "one")
    runtime.run(runtime.services.holding.pass_lost_turns())
    assert database.value("select count(*) from bloom.tasks where turn") == 1
    # As 0001 does it: without a word to those who wait.
    database.edit("update bloom.leases set status = 'released', ended_at = now()")
    database.edit("update bloom.tasks set status = 'completed' where id = %(id)s", id=first)
    assert runtime.claim("worker", "two") == []
    runtime.run(runtime.services.holding.pass_lost_turns())
    (claimed,) = runtime.claim("worker", "three")
    assert claimed["task"]["id"] == second
    assert database.value("select turn from bloom.tasks where id = %(id)s", id=third) is False


@pytest.mark.parametrize("seed", range(4))
def test_claims_take_the_first_of_all_tasks_that_the_worker_can_run(
    runtime: Replica, database: FreshDatabase, seed: int
) -> None:
    """Against a search through the whole queue, over random sets of labels in any order."""
    chance = random.Random(seed)  # noqa: S311
    letters = ["a", "b", "bb", "é", "z", "Z"]

    def some(most: int) -> list[str]:
        return chance.sample(letters, chance.randint(0, most))

    tasks = [{**KEYED, "concurrency_key": None, "priority": chance.randint(0, 2), "labels": some(3)} for _ in range(80)]
    items = told(runtime.post("/llm-tasks/batch", {"tasks": tasks}))["results"]
    queue = sorted((item["task"] for item in items), key=lambda task: -task["priority"])
    for number in range(12):
        carried = some(len(letters))
        name = runtime.register(f"w{number}", slots=8, capabilities={"labels": carried})["id"]
        able = [task for task in queue if set(task["labels"]) <= set(carried)][: chance.randint(1, 8)]
        got = runtime.claim(name, "one", slots=len(able) or 1)
        assert {item["task"]["id"] for item in got} == {task["id"] for task in able}
        queue = [task for task in queue if task not in able]
    check_invariants(database)
