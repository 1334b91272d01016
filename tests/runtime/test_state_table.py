"""Each state with each command, by each of its ways, attempts left or not, cancel asked or not: the SQL does what
`model.next_state` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica

from bloom.base.errors import BloomError, Conflict
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.tasks.model import FINAL, HELD, Command, LeaseStatus, TaskStatus, next_state
from bloom.tasks.schemas import Metrics, NewEvent, ReportBody
from bloom.tasks.service.granting import ClaimRequest, LeaseRequest
from bloom.tasks.service.holding import EventsCall

WAYS = {
    "lease call": Command.GRANT,
    "routed lease call": Command.GRANT,
    "claim": Command.GRANT,
    "extend": Command.EXTEND,
    "heartbeat": Command.EXTEND,
    "events": Command.EXTEND,
    "success": Command.COMPLETE,
    "error": Command.FAIL,
    "retryable error": Command.RETRY,
    "hand-back": Command.HAND_BACK,
    "removal of the worker": Command.HAND_BACK,
    "reaper": Command.EXPIRE,
    "cancel": Command.CANCEL,
    "requeue": Command.REQUEUE,
}
"""What a caller does, and what it is to the state machine."""

LEASE_ENDS = {
    TaskStatus.COMPLETED: LeaseStatus.RELEASED,
    TaskStatus.FAILED: LeaseStatus.FAILED,
    TaskStatus.DEAD: LeaseStatus.EXPIRED,
    TaskStatus.CANCELLED: LeaseStatus.RELEASED,
}


@dataclass(frozen=True)
class Case:
    """A task in one state. `attempts` is 1; `max_attempts` decides whether some are left."""

    status: TaskStatus
    attempts_left: bool
    cancel_asked: bool

    @property
    def id(self) -> str:
        return f"{self.status}-{'some' if self.attempts_left else 'none'}-{'asked' if self.cancel_asked else 'plain'}"


def every_case() -> Iterator[Case]:
    for status, attempts_left, cancel_asked in product(TaskStatus, (True, False), (True, False)):
        # A queued task that is to end has ended: the schema has no such rows.
        if not (status is TaskStatus.QUEUED and cancel_asked):
            yield Case(status, attempts_left, cancel_asked)


def put(database: FreshDatabase, case: Case) -> tuple[TaskId, LeaseId]:
    """Make a task in the state of `case`, with the lease that it had or has."""
    task_id, lease_id = f"task {case.id}", f"lease {case.id}"
    queued = case.status is TaskStatus.QUEUED
    database.edit(
        """insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, attempts,
                                    max_attempts, lease_id, worker_id, cancel_requested_at)
           values (%(id)s, %(id)s, 'a', 'p', 60, 0, 'text', %(status)s, 1, %(max)s, %(lease)s, %(worker)s,
                   case when %(asked)s then now() end)""",
        id=task_id,
        status=case.status,
        max=3 if case.attempts_left else 1,
        lease=None if queued else lease_id,
        worker=None if queued else "holder",
        asked=case.cancel_asked,
    )
    ended = LeaseStatus.ACTIVE if case.status in HELD else LEASE_ENDS.get(case.status, LeaseStatus.FAILED)
    database.edit(
        """insert into bloom.leases (id, task_id, worker_id, context_id, status, expires_at, ttl_seconds, ended_at)
           values (%(id)s, %(task)s, 'holder', %(task)s, %(status)s, now() + interval '1 minute', 60,
                   case when %(status)s <> 'active' then now() end)""",
        id=lease_id,
        task=task_id,
        status=ended,
    )
    return TaskId(task_id), LeaseId(lease_id)


def issue(runtime: Replica, database: FreshDatabase, way: str, task_id: TaskId, lease_id: LeaseId) -> bool:
    """Carry out a command in one of its `WAYS`; whether it was taken. Raises the BloomError of a refusal."""
    services = runtime.services

    def lease(worker: WorkerId | None) -> bool:
        return bool(runtime.run(services.granting.lease(LeaseRequest(task_id, worker, 60, "test"))))

    def report(*, success: bool = False, retryable: bool = False, hand_back: bool = False) -> bool:
        body = ReportBody(
            status="success" if success else "error",
            output="done",
            metrics=Metrics(duration_ms=1),
            retryable=retryable,
            hand_back=hand_back,
        )
        return bool(runtime.run(services.completing.complete(task_id, lease_id, body)))

    match way:
        case "lease call":
            return lease(WorkerId("free"))
        case "routed lease call":
            return lease(None)
        case "claim":
            return bool(runtime.run(services.granting.claim(ClaimRequest(WorkerId("free"), task_id, 1, 60, 0))))
        case "extend":
            (extended,) = runtime.run(services.holding.extend(WorkerId("holder"), [lease_id]))
            return extended.outcome != "lost"
        case "heartbeat":
            return bool(runtime.run(services.holding.heartbeat(task_id, lease_id)))
        case "events":
            event = NewEvent(seq=1, type="text")
            return bool(runtime.run(services.holding.append_events(EventsCall(task_id, lease_id, [event]))))
        case "success":
            return report(success=True)
        case "error":
            return report()
        case "retryable error":
            return report(retryable=True)
        case "hand-back":
            return report(hand_back=True)
        case "removal of the worker":
            held = "select count(*) from bloom.leases where status = 'active'"
            before = database.value(held)
            runtime.run(services.removal.remove(WorkerId("holder"), actor="test"))
            return database.value(held) < before
        case "reaper":
            database.expire(lease_id)
            return bool(runtime.reap())
        case "cancel":
            return bool(runtime.run(services.tasks.cancel(task_id, actor="test")))
        case _:
            return bool(runtime.run(services.tasks.requeue(task_id, actor="test")))


def told_to_stop(case: Case, way: str) -> bool:
    """Whether a report or a heartbeat is taken and its sender is told all the same that the task was cancelled."""
    tells = way == "heartbeat" or WAYS[way] in {Command.COMPLETE, Command.FAIL, Command.RETRY, Command.HAND_BACK}
    return case.cancel_asked and tells and case.status in HELD


def content(database: FreshDatabase, way: str) -> dict[str, list[str]]:
    """All tables, but for what concerns workers alone, and the moment that the reaper's work is made of."""
    tables = database.dump()
    audit = [entry for entry in tables["audit_log"] if '"entity_type": "worker"' not in entry]
    leases = [] if way == "reaper" else tables["leases"]
    return {**tables, "workers": [], "leases": leases, "audit_log": audit}


def attempts_after(way: str, taken_back: bool) -> int:
    if WAYS[way] is Command.GRANT:
        return 2
    loses_none = way == "removal of the worker" or (WAYS[way] is Command.HAND_BACK and taken_back)
    return 0 if loses_none or way == "requeue" else 1


def check_taken(
    database: FreshDatabase, case: Case, way: str, task_id: TaskId, lease_id: LeaseId, expected: TaskStatus
) -> None:
    task = database.row("select * from bloom.tasks where id = %(id)s", id=task_id)
    lease = database.row("select * from bloom.leases where id = %(id)s", id=lease_id)
    assert task["status"] == expected
    assert task["attempts"] == attempts_after(way, expected is TaskStatus.QUEUED)
    if WAYS[way] is Command.GRANT:
        # The router prefers the worker that had the context before.
        assert task["lease_id"] != lease_id
        assert task["worker_id"] == ("holder" if way == "routed lease call" else "free")
        return
    assert (lease["status"] == "active") == (expected in HELD)
    was_queued = case.status is TaskStatus.QUEUED
    assert task["lease_id"] == (None if was_queued or expected is TaskStatus.QUEUED else lease_id)
    asked = case.cancel_asked or (way == "cancel" and case.status in HELD)
    assert (task["cancel_requested_at"] is not None) == (asked and expected is not TaskStatus.QUEUED)


@pytest.mark.parametrize("way", WAYS)
def test_the_database_does_what_the_state_machine_says(runtime: Replica, database: FreshDatabase, way: str) -> None:
    runtime.register("free", slots=32)
    tried: list[Case] = []
    for case in every_case():
        tried.append(case)
        runtime.register("holder", slots=32)
        expected = next_state(case.status, WAYS[way], attempts_left=case.attempts_left, cancel_asked=case.cancel_asked)
        task_id, lease_id = put(database, case)
        before = content(database, way)
        taken, code = False, ""
        try:
            taken = issue(runtime, database, way, task_id, lease_id)
        except BloomError as error:
            assert isinstance(error, Conflict)
            code = error.code
        if expected is None:
            assert not taken and content(database, way) == before, case
        else:
            assert taken or (told_to_stop(case, way) and code == "cancelled"), (case, code)
            check_taken(database, case, way, task_id, lease_id, expected)
        database.edit("delete from bloom.results")
        database.edit("delete from bloom.tasks")
    assert len(tried) == 2 * 2 * len(TaskStatus) - 2


def test_every_command_has_a_way_and_every_final_state_stays_final() -> None:
    assert set(WAYS.values()) == set(Command)

    def moving(status: TaskStatus) -> set[Command]:
        asked = {c: next_state(status, c, attempts_left=True, cancel_asked=False) for c in Command}
        return {command for command, state in asked.items() if state is not None}

    assert moving(TaskStatus.QUEUED) == {Command.GRANT, Command.CANCEL}
    assert moving(TaskStatus.COMPLETED) == set()
    for status in FINAL - {TaskStatus.COMPLETED}:
        assert moving(status) == {Command.REQUEUE}
    for status in HELD:
        assert moving(status) == set(Command) - {Command.GRANT, Command.REQUEUE}
