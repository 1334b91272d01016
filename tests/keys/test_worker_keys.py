"""What the key of a stolen board can do to the tasks of other workers: nothing, on any route."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from key_holders import OTHER, OWN, create_key, holder, shown
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import API, Api, Replica, in_background, refused, success, told

from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.base.roles import Role
from bloom.server.access import RULES
from bloom.web.roles import Reach

Attempt = Callable[[Api, dict[str, Any], dict[str, Any]], httpx.Response]
"""A call for another worker's (task, lease)."""

EVENTS = [{"seq": 1, "type": "text", "data": {"text": "forged"}}]


def complete_as_own(api: Api, task: dict[str, Any], lease: dict[str, Any]) -> httpx.Response:
    item = {"task_id": task["id"], "lease_id": lease["id"], **success("forged")}
    return api.post(f"/workers/{OWN}/complete", {"completions": [item]})


ATTEMPTS: dict[tuple[str, str], list[Attempt]] = {
    ("GET", "/llm-tasks/{task_id}"): [lambda api, task, _lease: api.get(f"/llm-tasks/{task['id']}")],
    ("GET", "/llm-tasks/{task_id}/results"): [lambda api, task, _lease: api.get(f"/llm-tasks/{task['id']}/results")],
    ("GET", "/llm-tasks/{task_id}/results/{result_id}"): [
        lambda api, task, _lease: api.get(f"/llm-tasks/{task['id']}/results/any")
    ],
    ("GET", "/llm-tasks/{task_id}/events"): [lambda api, task, _lease: api.get(f"/llm-tasks/{task['id']}/events")],
    ("GET", "/llm-tasks/{task_id}/output"): [
        lambda api, task, lease: api.get(f"/llm-tasks/{task['id']}/output", lease_id=lease["id"])
    ],
    ("HEAD", "/llm-tasks/{task_id}/output"): [
        lambda api, task, lease: api.http.head(f"/llm-tasks/{task['id']}/output", params={"lease_id": lease["id"]})
    ],
    ("PUT", "/llm-tasks/{task_id}/output"): [
        lambda api, task, lease: api.http.put(
            f"/llm-tasks/{task['id']}/output", params={"lease_id": lease["id"], "offset": 0}, content=b"forged"
        ),
        lambda api, task, lease: api.http.put(
            f"/llm-tasks/{task['id']}/output",
            params={"lease_id": lease["id"], "offset": 0, "restart": "true"},
            content=b"forged",
        ),
    ],
    ("POST", "/llm-tasks/{task_id}/lease"): [
        lambda api, task, _lease: api.post(f"/llm-tasks/{task['id']}/lease"),
        lambda api, task, _lease: api.post(f"/llm-tasks/{task['id']}/lease", {"worker_id": OWN}),
        lambda api, task, _lease: api.post(f"/llm-tasks/{task['id']}/lease", {"worker_id": OTHER}),
    ],
    ("POST", "/llm-tasks/{task_id}/heartbeat"): [
        lambda api, task, _lease: api.heartbeat(task["id"]),
        lambda api, task, lease: api.heartbeat(task["id"], lease["id"]),
        lambda api, task, _lease: api.heartbeat(task["id"], "a guess"),
    ],
    ("POST", "/llm-tasks/{task_id}/events"): [
        lambda api, task, lease: api.post(
            f"/llm-tasks/{task['id']}/events", {"lease_id": lease["id"], "events": EVENTS}
        ),
        lambda api, task, _lease: api.post(
            f"/llm-tasks/{task['id']}/events", {"lease_id": "a guess", "events": EVENTS}
        ),
    ],
    ("POST", "/llm-tasks/{task_id}/complete"): [
        lambda api, task, _lease: api.complete(task["id"]),
        lambda api, task, lease: api.complete(task["id"], lease["id"]),
        lambda api, task, lease: api.fail(task["id"], lease["id"], hand_back=True),
    ],
    ("POST", "/workers"): [lambda api, _task, _lease: api.post("/workers", {"name": OTHER, "status": "offline"})],
    ("GET", "/workers/{worker_id}"): [lambda api, _task, _lease: api.get(f"/workers/{OTHER}")],
    ("POST", "/workers/{worker_id}/claim"): [
        lambda api, _task, _lease: api.post(f"/workers/{OTHER}/claim", {"request_id": "its first claim"}),
        lambda api, _task, _lease: api.post(f"/workers/{OTHER}/claim", {"request_id": "a new claim"}),
    ],
    ("POST", "/workers/{worker_id}/extend"): [
        lambda api, _task, lease: api.post(f"/workers/{OTHER}/extend", {"leases": [{"lease_id": lease["id"]}]})
    ],
    ("POST", "/workers/{worker_id}/complete"): [
        lambda api, task, lease: api.post(
            f"/workers/{OTHER}/complete",
            {"completions": [{"task_id": task["id"], "lease_id": lease["id"], **success("forged")}]},
        )
    ],
}


@pytest.fixture
def stolen(keyed: Replica) -> Generator[Api]:
    """A caller with the key of the worker OWN."""
    with holder(keyed, Role.WORKER) as api:
        yield api


def anothers_task(keyed: Replica) -> tuple[dict[str, Any], dict[str, Any]]:
    """A running task of the worker OTHER, with an event, and its lease."""
    keyed.register(OTHER, slots=4)
    keyed.create(prompt="another's secret prompt")
    (granted,) = keyed.claim(OTHER, "its first claim")
    task, lease = granted["task"], granted["lease"]
    told(keyed.post(f"/llm-tasks/{task['id']}/events", {"lease_id": lease["id"], "events": EVENTS}))
    return task, lease


def test_every_route_that_takes_a_workers_key_is_tried_below() -> None:
    taken = {
        (method, path.removeprefix(API))
        for (method, path), rule in RULES.items()
        if Role.WORKER in rule.roles and not rule.strangers
    }
    assert set(ATTEMPTS) == taken


@pytest.mark.parametrize("state", ["running", "completed", "cancelled"])
def test_a_workers_key_neither_reads_nor_touches_the_task_of_another(
    keyed: Replica, stolen: Api, database: FreshDatabase, state: str
) -> None:
    stolen.register(OWN, slots=4)
    task, lease = anothers_task(keyed)
    if state == "completed":
        told(keyed.complete(task["id"], lease["id"]))
    elif state == "cancelled":
        told(keyed.post(f"/llm-tasks/{task['id']}/cancel"))
        keyed.complete(task["id"], lease["id"])
    before = database.dump()
    for route, attempts in ATTEMPTS.items():
        for number, attempt in enumerate(attempts):
            answer = attempt(stolen, task, lease)
            assert answer.status_code == 403, (route, number, answer.text)
            assert "secret" not in answer.text and "forged" not in answer.text
    assert database.dump() == before


def test_of_a_task_that_is_not_there_a_workers_key_hears_the_same(keyed: Replica, stolen: Api) -> None:
    stolen.register(OWN)
    missing: tuple[dict[str, Any], dict[str, Any]] = {"id": "missing"}, {"id": "missing"}
    existing = anothers_task(keyed)
    for (method, path), attempts in ATTEMPTS.items():
        if "{task_id}" in path and method != "HEAD":
            for attempt in attempts:
                assert attempt(stolen, *missing).json() == attempt(stolen, *existing).json(), (method, path)


def test_leases_of_others_are_lost_and_forbidden_in_the_workers_own_batches(
    keyed: Replica, stolen: Api, database: FreshDatabase
) -> None:
    stolen.register(OWN)
    task, lease = anothers_task(keyed)
    told(stolen.post(f"/workers/{OWN}/extend", {"leases": []}))
    before = database.dump()
    extended = told(stolen.post(f"/workers/{OWN}/extend", {"leases": [{"lease_id": lease["id"]}]}))
    assert [item["outcome"] for item in extended["leases"]] == ["lost"]
    completed = told(complete_as_own(stolen, task, lease))
    assert [item["outcome"] for item in completed["completions"]] == ["forbidden"]
    assert database.dump() == before


def test_the_outcome_of_another_is_not_had_by_repeating_its_report(keyed: Replica, stolen: Api) -> None:
    stolen.register(OWN)
    task, lease = anothers_task(keyed)
    told(keyed.complete(task["id"], lease["id"], output="another's output"))
    for answer in (
        stolen.complete(task["id"], lease["id"], output="another's output"),
        complete_as_own(stolen, task, lease),
    ):
        assert "prompt" not in answer.text and "artifact" not in answer.text


def test_what_a_worker_held_before_it_may_read_but_not_touch_once_another_holds_it(
    keyed: Replica, stolen: Api, database: FreshDatabase
) -> None:
    stolen.register(OWN)
    keyed.register(OTHER)
    task = keyed.create()
    lost = stolen.lease(task["id"])
    database.expire(lost["id"])
    assert keyed.reap() == [task["id"]]
    held = keyed.lease(task["id"], OTHER)
    assert told(stolen.get(f"/llm-tasks/{task['id']}"))["lease_id"] == held["id"]
    before = database.dump()
    fenced = [
        ATTEMPTS[method, path.removeprefix(API)] for (method, path), rule in RULES.items() if _is_fenced(path, rule)
    ]
    for attempts in fenced:
        for attempt in attempts:
            answer = attempt(stolen, task, held)
            assert answer.status_code in (403, 409), answer.text
    assert refused(stolen.heartbeat(task["id"], lost["id"]), 409) == "lease_lost"
    assert database.dump() == before


def _is_fenced(path: str, rule: Any) -> bool:
    return Role.WORKER in rule.roles and rule.reach is Reach.FENCED and "{task_id}" in path and not rule.strangers


def test_in_one_batch_with_the_holder_a_stranger_still_gets_nothing(keyed: Replica) -> None:
    task, lease = anothers_task(keyed)
    holding = keyed.services.holding

    async def both() -> list[Any]:
        calls = [
            holding.heartbeat(TaskId(task["id"]), LeaseId(lease["id"]), worker_id=WorkerId(name))
            for name in (OWN, OTHER)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    stranger, its_holder = keyed.run(both())
    assert (stranger.code, its_holder.id) == ("lease_lost", lease["id"])


def test_a_workers_key_does_the_whole_work_of_its_worker(keyed: Replica, stolen: Api) -> None:
    stolen.register(OWN)
    task = keyed.create()
    (granted,) = stolen.claim(OWN, "a claim")
    lease_id = granted["lease"]["id"]
    assert granted["task"]["id"] == task["id"]
    told(stolen.post(f"/llm-tasks/{task['id']}/events", {"lease_id": lease_id, "events": EVENTS}))
    told(stolen.heartbeat(task["id"]))
    extended = told(stolen.post(f"/workers/{OWN}/extend", {"leases": [{"lease_id": lease_id}]}))
    assert [item["outcome"] for item in extended["leases"]] == ["held"]
    assert told(stolen.get(f"/workers/{OWN}"))["active_leases"] == 1
    assert len(told(stolen.get(f"/llm-tasks/{task['id']}/events"))) == 1
    completed = told(complete_as_own(stolen, task, granted["lease"]))
    assert [item["outcome"] for item in completed["completions"]] == ["ok"]
    assert [item["output"] for item in told(stolen.get(f"/llm-tasks/{task['id']}/results"))] == ["forged"]
    # The compatible routes, where nothing names the worker.
    second = keyed.create()
    assert stolen.lease(second["id"])["worker_id"] == OWN
    told(stolen.complete(second["id"]))


def test_a_queued_task_that_cannot_be_leased_now_is_told_as_such(keyed: Replica, stolen: Api) -> None:
    stolen.register(OWN)
    task = keyed.create(run_at=4_000_000_000_000)
    assert refused(stolen.post(f"/llm-tasks/{task['id']}/lease"), 409) == "not_due"


def test_of_two_keys_of_one_worker_either_works_so_that_one_can_take_the_place_of_the_other(keyed: Replica) -> None:
    old = create_key(keyed, Role.WORKER, "old")
    new = create_key(keyed, Role.WORKER, "new")
    with shown(keyed, old["key"]) as before, shown(keyed, new["key"]) as after:
        before.register(OWN)
        task = keyed.create()
        lease = before.lease(task["id"])
        told(keyed.delete(f"/keys/{old['id']}"))
        assert refused(before.heartbeat(task["id"]), 401) == "unauthorized"
        told(after.complete(task["id"], lease["id"]))


def test_a_waiting_claim_ends_empty_when_its_key_is_revoked(keyed: Replica, database: FreshDatabase) -> None:
    key = create_key(keyed, Role.WORKER)
    with shown(keyed, key["key"]) as api:
        api.register(OWN)
        with in_background(lambda: api.claim(OWN, "a claim", wait_sec=60)) as claim:
            waiting = "select from bloom.workers where polling_until is not null"
            eventually(lambda: database.rows(waiting), what="a claim that waits")
            told(keyed.delete(f"/keys/{key['id']}"))
            keyed.create()
            assert claim.result(5) == []
        assert refused(api.post(f"/workers/{OWN}/claim", {"request_id": "a claim"}), 401) == "unauthorized"
    assert database.value("select count(*) from bloom.leases") == 0
