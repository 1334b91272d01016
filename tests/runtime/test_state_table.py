"""Each state with each command, attempts left or not, cancel asked or not: the SQL does what `model.next_state` says."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica

from bloom.base.errors import BloomError, Conflict
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.tasks.model import FINAL, HELD, Command, LeaseStatus, TaskStatus, next_state
from bloom.tasks.schemas import Metrics, ReportBody
from bloom.tasks.service.granting import LeaseRequest

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


def issue(runtime: Replica, database: FreshDatabase, command: Command, task_id: TaskId, lease_id: LeaseId) -> bool:
    """Carry out `command`; whether it was taken. Raises the BloomError of a refusal."""
    services = runtime.services

    def report(*, success: bool, retryable: bool = False, hand_back: bool = False) -> bool:
        body = ReportBody(
            status="success" if success else "error",
            output="done",
            metrics=Metrics(duration_ms=1),
            retryable=retryable,
            hand_back=hand_back,
        )
        runtime.run(services.completing.complete(task_id, lease_id, body))
        return True

    match command:
        case Command.GRANT:
            runtime.run(services.granting.lease(LeaseRequest(task_id, WorkerId("free"), 60, "test")))
        case Command.EXTEND:
            (extended,) = runtime.run(services.holding.extend(WorkerId("holder"), [lease_id]))
            return extended.outcome != "lost"
        case Command.COMPLETE:
            return report(success=True)
        case Command.FAIL:
            return report(success=False)
        case Command.RETRY:
            return report(success=False, retryable=True)
        case Command.HAND_BACK:
            return report(success=False, hand_back=True)
        case Command.EXPIRE:
            database.expire(lease_id)
            return bool(runtime.reap())
        case Command.CANCEL:
            runtime.run(services.tasks.cancel(task_id, actor="test"))
        case Command.REQUEUE:
            runtime.run(services.tasks.requeue(task_id, actor="test"))
    return True


def told_to_stop(case: Case, command: Command) -> bool:
    """Whether a report is taken and its sender is told all the same that the task was cancelled."""
    reports = {Command.COMPLETE, Command.FAIL, Command.RETRY, Command.HAND_BACK}
    return case.cancel_asked and command in reports and case.status in HELD


def content(database: FreshDatabase, command: Command) -> dict[str, list[str]]:
    """All tables, but for the notes that a worker was heard from, and the moment that EXPIRE is made of."""
    leases = [] if command is Command.EXPIRE else database.dump()["leases"]
    return {**database.dump(), "workers": [], "leases": leases}


def attempts_after(command: Command, taken_back: bool) -> int:
    if command is Command.GRANT:
        return 2
    return 0 if command is Command.REQUEUE or (command is Command.HAND_BACK and taken_back) else 1


def check_taken(
    database: FreshDatabase, case: Case, command: Command, task_id: TaskId, lease_id: LeaseId, expected: TaskStatus
) -> None:
    task = database.row("select * from bloom.tasks where id = %(id)s", id=task_id)
    lease = database.row("select * from bloom.leases where id = %(id)s", id=lease_id)
    assert task["status"] == expected
    assert task["attempts"] == attempts_after(command, expected is TaskStatus.QUEUED)
    if command is Command.GRANT:
        assert task["lease_id"] != lease_id and task["worker_id"] == "free"
        return
    assert (lease["status"] == "active") == (expected in HELD)
    was_queued = case.status is TaskStatus.QUEUED
    assert task["lease_id"] == (None if was_queued or expected is TaskStatus.QUEUED else lease_id)
    asked = case.cancel_asked or (command is Command.CANCEL and case.status in HELD)
    assert (task["cancel_requested_at"] is not None) == (asked and expected is not TaskStatus.QUEUED)


@pytest.mark.parametrize("command", Command)
def test_the_database_does_what_the_state_machine_says(
    runtime: Replica, database: FreshDatabase, command: Command
) -> None:
    runtime.register("holder", slots=32)
    runtime.register("free", slots=32)
    tried: list[Case] = []
    for case in every_case():
        tried.append(case)
        expected = next_state(case.status, command, attempts_left=case.attempts_left, cancel_asked=case.cancel_asked)
        task_id, lease_id = put(database, case)
        before = content(database, command)
        taken, code = False, ""
        try:
            taken = issue(runtime, database, command, task_id, lease_id)
        except BloomError as error:
            assert isinstance(error, Conflict)
            code = error.code
        if expected is None:
            assert not taken and content(database, command) == before, case
        else:
            assert taken or (told_to_stop(case, command) and code == "cancelled"), (case, code)
            check_taken(database, case, command, task_id, lease_id, expected)
        database.edit("delete from bloom.results")
        database.edit("delete from bloom.tasks")
    assert len(tried) == 2 * 2 * len(TaskStatus) - 2


def test_the_table_has_every_command_and_every_final_state_stays_final() -> None:
    def moving(status: TaskStatus) -> set[Command]:
        asked = {c: next_state(status, c, attempts_left=True, cancel_asked=False) for c in Command}
        return {command for command, state in asked.items() if state is not None}

    assert moving(TaskStatus.QUEUED) == {Command.GRANT, Command.CANCEL}
    assert moving(TaskStatus.COMPLETED) == set()
    for status in FINAL - {TaskStatus.COMPLETED}:
        assert moving(status) == {Command.REQUEUE}
    for status in HELD:
        assert moving(status) == set(Command) - {Command.GRANT, Command.REQUEUE}
