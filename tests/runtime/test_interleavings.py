"""Two things at once, forced into each order by a third party that holds what the first one needs to end."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, refused, told
from tests.runtime.invariants import check_invariants
from tests.runtime.racing import Race, later

from bloom.base.ids import LeaseId, TaskId
from bloom.tasks.schemas import NewEvent
from bloom.tasks.service.holding import EventsCall
from bloom.tasks.store import leases


def test_a_completion_that_comes_before_a_cancel_wins(race: Race) -> None:
    completed, cancelled = race.in_order(race.complete, race.cancel)
    assert told(completed)["task"]["status"] == "completed"
    assert refused(cancelled, 409) == "already_final"
    check_invariants(race.database)


def test_a_cancel_that_comes_before_a_completion_wins(race: Race) -> None:
    cancelled, completed = race.in_order(race.cancel, race.complete)
    assert told(cancelled)["cancel_requested"] is True
    assert refused(completed, 409) == "cancelled" and race.status() == "cancelled"
    assert told(race.first.get("/artifacts")) == []
    check_invariants(race.database)


def test_the_first_of_two_different_completions_wins(race: Race) -> None:
    for first, second, status in ((race.complete, race.fail, "completed"), (race.fail, race.complete, "failed")):
        taken, late = race.in_order(first, second)
        assert told(taken)["task"]["status"] == status == race.status()
        assert refused(late, 409) == "already_completed"
        race.task_id = race.first.create()["id"]
        race.lease_id = race.first.lease(race.task_id)["id"]
    check_invariants(race.database)


def test_the_first_of_two_cancels_wins_and_the_other_changes_nothing(race: Race) -> None:
    one, other = race.in_order(race.cancel, race.cancel)
    assert told(one)["cancel_requested"] is told(other)["cancel_requested"] is True
    assert [action for action, _ in race.first.audit(race.task_id)].count("task_cancel_requested") == 1
    check_invariants(race.database)


def test_a_completion_that_comes_after_the_reaper_changes_nothing(race: Race) -> None:
    race.database.expire(race.lease_id)
    reaped, completed = race.in_order(race.reap, race.complete)
    assert reaped == [race.task_id]
    assert refused(completed, 409) == "lease_lost" and race.status() == "queued"
    check_invariants(race.database)


def test_the_reaper_passes_over_a_task_that_is_being_completed(race: Race) -> None:
    race.database.expire(race.lease_id)
    completed, reaped = race.within(race.complete, race.reap)
    assert reaped == [] and told(completed)["task"]["status"] == "completed"
    assert race.second.reap() == []
    check_invariants(race.database)


def test_two_reapers_at_once_share_the_work(race: Race) -> None:
    race.database.expire(race.lease_id)
    assert race.within(race.reap, race.reap) == ([race.task_id], [])
    check_invariants(race.database)


def test_an_extend_that_comes_after_the_reaper_has_lost(race: Race) -> None:
    race.database.expire(race.lease_id)
    assert race.in_order(race.reap, race.extend) == ([race.task_id], "lost")
    assert race.status() == "queued"
    check_invariants(race.database)


def test_a_reaper_that_comes_while_a_lease_is_extended_in_time_takes_nothing(race: Race) -> None:
    """The extend began before the end of the lease, the reaper looks after it."""

    async def both() -> tuple[int, int, int]:
        ends: datetime = race.database.value("select expires_at from bloom.leases")
        before, after = ends - timedelta(seconds=1), ends + timedelta(seconds=1)
        extending, reaping = await connect(race.database), await connect(race.database)
        async with extending, reaping:
            await leases.lock_tasks(extending, [TaskId(race.task_id)])
            extended = await leases.extend_many(extending, [(LeaseId(race.lease_id), None)], now=before)
            during = await leases.expire_many(reaping, actor="test", limit=10, now=after)
            await extending.commit()
            later = await leases.expire_many(reaping, actor="test", limit=10, now=after)
            await reaping.commit()
            return len(extended), len(during), len(later)

    assert asyncio.run(both()) == (1, 0, 0)
    assert race.status() == "running"
    check_invariants(race.database)


def test_an_extend_whose_lease_ends_while_it_waits_for_the_lock_is_lost(race: Race) -> None:
    body = {"leases": [{"lease_id": race.lease_id}]}
    with later(lambda: race.first.post("/workers/worker/extend", body)) as extending:
        with race.database.connect(autocommit=False) as holder:
            holder.execute("select from bloom.tasks for update")
            extending.start()
            race.database.wait_until_blocked()
            race.database.expire(race.lease_id)
        assert told(extending.result())["leases"][0]["outcome"] == "lost"
    assert race.second.reap() == [race.task_id]
    check_invariants(race.database)


@pytest.mark.parametrize("named", [True, False], ids=["named", "routed"])
def test_a_lease_that_is_granted_before_the_worker_is_removed_ends_with_it(race: Race, named: bool) -> None:
    task = race.first.create(context_id="other")["id"]
    body = {"worker_id": "worker"} if named else {}
    leased, removed = race.in_order(lambda api: api.post(f"/llm-tasks/{task}/lease", body), race.remove_worker)
    assert told(leased, 201)["lease"]["status"] == "active" and told(removed)["removed"] is True
    back = race.first.task(task)
    assert (back["status"], back["attempts"]) == ("queued", 0)
    assert told(race.first.get("/leases", status="active")) == []
    check_invariants(race.database)


@pytest.mark.parametrize("named", [True, False], ids=["named", "routed"])
def test_no_lease_is_granted_to_a_worker_that_was_removed_before(race: Race, named: bool) -> None:
    task = race.first.create(context_id="other")["id"]
    body = {"worker_id": "worker"} if named else {}
    removed, leased = race.in_order(race.remove_worker, lambda api: api.post(f"/llm-tasks/{task}/lease", body))
    assert told(removed)["removed"] is True
    expected = (404, "worker_not_found") if named else (503, "no_free_worker")
    assert refused(leased, expected[0]) == expected[1]
    assert race.first.task(task)["status"] == "queued"
    check_invariants(race.database)


def test_a_claim_and_a_removal_meet_in_either_order(race: Race) -> None:
    task = race.first.create(context_id="other")["id"]
    claim = {"request_id": "r"}
    claimed, removed = race.in_order(lambda api: api.post("/workers/worker/claim", claim), race.remove_worker)
    assert [item["task"]["id"] for item in told(claimed)["leases"]] == [task] and told(removed)["removed"] is True
    assert race.first.task(task)["status"] == "queued"
    race.first.register(slots=4)
    removed, claimed = race.in_order(race.remove_worker, lambda api: api.post("/workers/worker/claim", claim))
    assert told(removed)["removed"] is True and refused(claimed, 404) == "worker_not_found"
    check_invariants(race.database)


def test_a_completion_and_a_removal_meet_in_either_order(race: Race) -> None:
    completed, removed = race.in_order(race.complete, race.remove_worker)
    assert told(completed)["task"]["status"] == "completed" == race.status() and told(removed)["removed"] is True
    race.first.register()
    race.hold_another()
    removed, completed = race.in_order(race.remove_worker, race.complete)
    assert told(removed)["removed"] is True and refused(completed, 409) == "lease_lost"
    assert race.status() == "queued"
    check_invariants(race.database)


def test_the_second_of_two_leases_of_one_task_is_refused(race: Race) -> None:
    task = race.first.create(context_id="other")["id"]
    race.first.register("other")

    def lease(worker_id: str) -> Callable[[Replica], httpx.Response]:
        return lambda api: api.post(f"/llm-tasks/{task}/lease", {"worker_id": worker_id})

    one, other = race.in_order(lease("worker"), lease("other"))
    assert told(one, 201)["lease"]["worker_id"] == "worker" and refused(other, 409) == "not_queued"
    check_invariants(race.database)


def test_a_claim_passes_over_a_task_that_is_being_leased(race: Race) -> None:
    task, free = race.first.create(context_id="x")["id"], race.first.create(context_id="y")["id"]
    race.first.register("other")
    lease = {"worker_id": "worker"}
    with (
        later(lambda: race.first.post(f"/llm-tasks/{task}/lease", lease)) as leasing,
        later(lambda: race.second.claim("other", "r")) as claiming,
    ):
        with race.database.audit_closed():
            leasing.start()
            race.database.wait_until_blocked()
            claiming.start()
            race.database.wait_until_blocked(2)
        told(leasing.result(), 201)
        assert [item["task"]["id"] for item in claiming.result()] == [free]
    assert race.first.task(free)["worker_id"] == "other"
    check_invariants(race.database)


def test_a_claim_does_not_wait_for_a_task_that_somebody_else_has_locked(race: Race) -> None:
    locked, free = race.first.create(context_id="x")["id"], race.first.create(context_id="y")["id"]
    with race.database.connect(autocommit=False) as holder:
        holder.execute("select from bloom.tasks where id = %s for update", [locked])
        assert [item["task"]["id"] for item in race.first.claim("worker", "r1", slots=2)] == [free]
    assert [item["task"]["id"] for item in race.first.claim("worker", "r2", slots=2)] == [locked]


@pytest.mark.parametrize("call", ["extend", "complete", "heartbeats", "events"])
def test_a_batch_takes_its_locks_in_the_order_of_ids(race: Race, call: str) -> None:
    """Who waits for the first of two tasks holds no lock on the second yet, though it was named first."""
    task, lease = race.first.leased(context_id="other")
    held = sorted([(race.task_id, race.lease_id), (task["id"], lease["id"])], reverse=True)
    holding, report = race.first.services.holding, {"status": "error", "metrics": {"duration_ms": 1}}

    async def heartbeats() -> None:
        await asyncio.gather(*(holding.heartbeat(TaskId(t), LeaseId(id)) for t, id in held))

    async def events() -> None:
        event = NewEvent(seq=1, type="text")
        await asyncio.gather(*(holding.append_events(EventsCall(TaskId(t), LeaseId(id), [event])) for t, id in held))

    calls: dict[str, Callable[[], Any]] = {
        "extend": lambda: race.first.post("/workers/worker/extend", {"leases": [{"lease_id": id} for _, id in held]}),
        "complete": lambda: race.first.post(
            "/workers/worker/complete", {"completions": [{"task_id": t, "lease_id": id, **report} for t, id in held]}
        ),
        "heartbeats": lambda: race.first.run(heartbeats()),
        "events": lambda: race.first.run(events()),
    }
    second, first = held[0][0], held[1][0]
    with later(calls[call]) as calling:
        with race.database.connect(autocommit=False) as holder:
            holder.execute("select from bloom.tasks where id = %s for update", [first])
            calling.start()
            race.database.wait_until_blocked()
            holder.execute("select from bloom.tasks where id = %s for update nowait", [second])
        calling.result()
    check_invariants(race.database)


async def connect(database: FreshDatabase) -> psycopg.AsyncConnection[DictRow]:
    return await psycopg.AsyncConnection[DictRow].connect(database.url, row_factory=dict_row)
