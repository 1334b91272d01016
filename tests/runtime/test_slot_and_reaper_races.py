"""Races for the slots of a worker, with the reaper, and of people who change their mind: each pair in both orders."""

from typing import Any

from tests.real_runtime import Replica, refused, told
from tests.runtime.invariants import check_invariants
from tests.runtime.racing import EVENTS, LEASES, WORKERS, Call, Race


def leases_of(claimed: Any) -> list[str]:
    """The tasks that a claim got."""
    return [item["task"]["id"] for item in told(claimed)["leases"]]


def claim(request_id: str, slots: int = 4) -> Call:
    return lambda api: api.post("/workers/worker/claim", {"request_id": request_id, "slots": slots})


def register(slots: int) -> Call:
    body = {"name": "worker", "capabilities": {"max_concurrency": slots}}
    return lambda api: api.post("/workers", body)


def lease(task_id: str) -> Call:
    return lambda api: api.post(f"/llm-tasks/{task_id}/lease", {"worker_id": "worker"})


def create(api: Replica, count: int) -> list[str]:
    return [api.create(context_id=f"context {n}")["id"] for n in range(count)]


# --- slots ------------------------------------------------------------------------------------------------------------


def test_of_two_claims_of_a_worker_the_second_gets_only_the_slots_that_the_first_left(race: Race) -> None:
    tasks = create(race.first, 5)
    one, other = race.in_order(claim("r1", 2), claim("r2", 4))
    assert leases_of(one) == tasks[:2] and leases_of(other) == tasks[2:3]  # one slot is taken from the beginning
    check_invariants(race.database)


def test_a_claim_and_a_lease_call_never_share_the_last_slot(race: Race) -> None:
    register(2)(race.first)
    tasks = create(race.first, 2)
    claimed, leased = race.in_order(claim("r1"), lease(tasks[1]))
    assert leases_of(claimed) == tasks[:1] and refused(leased, 503) == "worker_not_free"
    told(race.first.complete(tasks[0]))
    (free,) = create(race.first, 1)
    leased, claimed = race.in_order(lease(free), claim("r2"))
    assert told(leased, 201)["lease"]["status"] == "active" and leases_of(claimed) == []
    check_invariants(race.database)


def test_two_lease_calls_never_share_the_last_slot(race: Race) -> None:
    register(2)(race.first)
    one, other = (lease(task) for task in create(race.first, 2))
    leased, second = race.in_order(one, other)
    assert told(leased, 201)["lease"]["status"] == "active" and refused(second, 503) == "worker_not_free"
    check_invariants(race.database)


def test_a_claim_that_is_repeated_while_it_is_carried_out_gets_the_same_leases(race: Race) -> None:
    create(race.first, 3)
    one, other = race.in_order(claim("the same", 2), claim("the same", 2))
    assert told(one) == told(other) and len(leases_of(one)) == 2
    check_invariants(race.database)


def test_a_worker_that_tells_fewer_slots_is_given_no_more_from_then_on(race: Race) -> None:
    tasks = create(race.first, 4)
    told_first, claimed = race.in_order(register(2), claim("r1"), gate=WORKERS)
    assert told(told_first)["capabilities"]["max_concurrency"] == 2 and leases_of(claimed) == tasks[:1]
    register(4)(race.first)
    claimed, told_later = race.in_order(claim("r2"), register(1), gate=WORKERS)
    assert leases_of(claimed) == tasks[1:3] and told(told_later)["active_leases"] == 4  # they may end
    assert leases_of(claim("r3")(race.first)) == []
    check_invariants(race.database)


def test_a_drained_worker_is_given_nothing_from_then_on(race: Race) -> None:
    def drain(api: Replica) -> Any:
        return api.post("/workers/worker/drain")

    tasks = create(race.first, 2)
    claimed, drained = race.in_order(claim("r1", 1), drain, gate=WORKERS)
    assert leases_of(claimed) == tasks[:1] and told(drained)["active_leases"] == 2
    told(race.first.post("/workers/worker/resume"))
    drained, claimed = race.in_order(drain, claim("r2"), gate=WORKERS)
    assert told(drained)["active_leases"] == 2 and leases_of(claimed) == []
    assert refused(lease(tasks[1])(race.first), 503) == "worker_not_free"
    check_invariants(race.database)


def test_tasks_of_one_concurrency_key_are_never_leased_at_once(race: Race) -> None:
    one, other = (race.first.create(context_id=f"{n}", concurrency_key="key")["id"] for n in range(2))
    race.first.register("another")
    by_another = {"worker_id": "another"}
    leased, second = race.within(lease(one), lambda api: api.post(f"/llm-tasks/{other}/lease", by_another))
    assert told(leased, 201)["lease"]["task_id"] == one and refused(second, 409) == "busy"
    check_invariants(race.database)


# --- the reaper -------------------------------------------------------------------------------------------------------


def test_events_and_the_reaper_meet_in_either_order(race: Race) -> None:
    race.database.expire(race.lease_id)
    stored, reaped = race.within(race.tell_events, race.reap, gate=EVENTS)
    assert told(stored)["accepted"] == 1 and reaped == []  # too late to renew the lease
    reaped, stored = race.in_order(race.reap, race.tell_events)
    assert reaped == [race.task_id] and refused(stored, 409) == "lease_lost" and race.status() == "queued"
    assert race.database.value("select count(*) from bloom.task_events") == 1
    check_invariants(race.database)


def test_an_extend_that_comes_before_the_reaper_keeps_the_lease(race: Race) -> None:
    assert race.within(race.extend, race.reap, gate=LEASES) == ("held", [])
    assert race.second.reap() == [] and race.status() == "running"
    check_invariants(race.database)


def test_a_cancel_and_the_reaper_meet_in_either_order(race: Race) -> None:
    race.database.expire(race.lease_id)
    cancelled, reaped = race.within(race.cancel, race.reap)
    assert told(cancelled)["cancel_requested"] is True and reaped == []
    assert race.second.reap() == [race.task_id] and race.status() == "cancelled"
    race.hold_another(context_id="other")
    race.database.expire(race.lease_id)
    reaped, cancelled = race.in_order(race.reap, race.cancel)
    assert reaped == [race.task_id] and told(cancelled)["status"] == "cancelled"
    assert race.first.task(race.task_id)["lease_id"] is None
    check_invariants(race.database)


def test_a_removal_and_the_reaper_end_a_lease_once(race: Race) -> None:
    race.database.expire(race.lease_id)
    removed, reaped = race.within(race.remove_worker, race.reap)
    assert told(removed)["removed"] is True and reaped == []
    assert race.first.task(race.task_id)["attempts"] == 0
    race.first.register(slots=4)
    race.hold_another(context_id="other")
    race.database.expire(race.lease_id)
    reaped, removed = race.in_order(race.reap, race.remove_worker)
    assert reaped == [race.task_id] and told(removed)["removed"] is True
    assert race.first.task(race.task_id)["attempts"] == 1
    check_invariants(race.database)


# --- people and workers -----------------------------------------------------------------------------------------------


def test_an_extend_and_a_completion_meet_in_either_order(race: Race) -> None:
    extended, completed = race.in_order(race.extend, race.complete, gate=LEASES)
    assert extended == "held" and told(completed)["task"]["status"] == "completed"
    race.hold_another(context_id="other")
    completed, extended = race.in_order(race.complete, race.extend)
    assert told(completed)["task"]["status"] == "completed" and extended == "lost"
    check_invariants(race.database)


def test_an_extend_tells_of_a_cancel_that_came_before_it_only(race: Race) -> None:
    extended, cancelled = race.in_order(race.extend, race.cancel, gate=LEASES)
    assert extended == "held" and told(cancelled)["cancel_requested"] is True
    race.hold_another(context_id="other")
    cancelled, extended = race.in_order(race.cancel, race.extend)
    assert told(cancelled)["cancel_requested"] is True and extended == "cancel"
    check_invariants(race.database)


def test_an_extend_and_a_removal_meet_in_either_order(race: Race) -> None:
    extended, removed = race.in_order(race.extend, race.remove_worker, gate=LEASES)
    assert extended == "held" and told(removed)["removed"] is True and race.status() == "queued"
    race.first.register(slots=4)
    race.hold_another(context_id="other")
    body = {"leases": [{"lease_id": race.lease_id}]}
    removed, extended = race.in_order(race.remove_worker, lambda api: api.post("/workers/worker/extend", body))
    assert told(removed)["removed"] is True and refused(extended, 404) == "worker_not_found"
    check_invariants(race.database)


def test_a_requeue_and_a_cancel_meet_in_either_order(race: Race) -> None:
    told(race.fail(race.first))
    requeued, cancelled = race.in_order(race.requeue, race.cancel)
    assert told(requeued)["status"] == "queued" and told(cancelled)["status"] == "cancelled" == race.status()
    told(race.requeue(race.first))
    cancelled, requeued = race.in_order(race.cancel, race.requeue)
    assert told(cancelled)["status"] == "cancelled" and told(requeued)["status"] == "queued" == race.status()
    check_invariants(race.database)


def test_of_two_requeues_one_takes_effect(race: Race) -> None:
    told(race.fail(race.first))
    one, other = race.in_order(race.requeue, race.requeue)
    assert told(one)["status"] == "queued" and refused(other, 409) == "not_requeueable"
    check_invariants(race.database)


def test_a_lease_call_and_a_cancel_meet_in_either_order(race: Race) -> None:
    (race.task_id,) = create(race.first, 1)
    leased, cancelled = race.in_order(lease(race.task_id), race.cancel)
    assert told(leased, 201)["lease"]["status"] == "active" and told(cancelled)["cancel_requested"] is True
    (race.task_id,) = create(race.first, 1)
    cancelled, leased = race.in_order(race.cancel, lease(race.task_id))
    assert told(cancelled)["status"] == "cancelled" and refused(leased, 409) == "not_queued"
    check_invariants(race.database)


def test_two_creations_with_one_idempotency_key_make_one_task(race: Race) -> None:
    body = {"context_id": "c", "agent_slug": "a", "prompt": "p"}

    def creating(api: Replica) -> Any:
        return api.post("/llm-tasks", body, **{"Idempotency-Key": "the same"})

    answers = race.in_order(creating, creating)
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    check_invariants(race.database)
