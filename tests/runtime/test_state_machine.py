"""Random histories of many tasks and workers against a small model, with the invariants checked after each step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica
from tests.runtime.invariants import violations

from bloom.base.errors import BloomError
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.tasks.model import FINAL, HELD, Command, TaskStatus, next_state
from bloom.tasks.schemas import CreateTask, Metrics, ReportBody
from bloom.tasks.service.granting import ClaimRequest, LeaseRequest
from bloom.workers.schemas import Capabilities, RegisterWorker

T = TypeVar("T")
PICK = st.integers(0, 11) | st.integers(0, 2)
REPORTS = {
    Command.COMPLETE: {"status": "success", "output": "done"},
    Command.FAIL: {"status": "error", "error_message": "no"},
    Command.RETRY: {"status": "error", "error_message": "again", "retryable": True},
    Command.HAND_BACK: {"status": "error", "hand_back": True},
}


@dataclass
class ModelTask:
    """What a task ought to be."""

    id: str
    max_attempts: int
    key: str | None
    due: bool
    status: TaskStatus = TaskStatus.QUEUED
    attempts: int = 0
    lease: "ModelLease | None" = None
    cancel_asked: bool = False

    def told(self) -> tuple[str, int, str | None, bool, bool]:
        lease_id = None if self.lease is None else self.lease.id
        return (self.status, self.attempts, lease_id, self.cancel_asked, self.due)


@dataclass
class ModelLease:
    """What a lease ought to be. `reported` is what ended it, if a report did."""

    id: str
    task: ModelTask
    worker: str
    active: bool = True
    late: bool = False
    reported: tuple[Command, float] | None = None
    cancelled: bool = False


@dataclass
class Model:
    """The runtime in a few lines."""

    tasks: list[ModelTask] = field(default_factory=list[ModelTask])
    leases: list[ModelLease] = field(default_factory=list[ModelLease])
    slots: dict[str, int] = field(default_factory=dict[str, int])

    def free(self, worker: str) -> int:
        return self.slots[worker] - sum(lease.active and lease.worker == worker for lease in self.leases)

    def busy(self, task: ModelTask) -> bool:
        before = self.tasks[: self.tasks.index(task)]
        return task.key is not None and any(
            other.key == task.key and (other.status in HELD or (other.status is TaskStatus.QUEUED and other in before))
            for other in self.tasks
            if other is not task
        )

    def claimable(self) -> list[ModelTask]:
        return [task for task in self.tasks if task.status is TaskStatus.QUEUED and task.due and not self.busy(task)]

    def grant(self, task: ModelTask, lease_id: str, worker: str) -> None:
        task.status, task.attempts, task.lease = (
            TaskStatus.LEASED,
            task.attempts + 1,
            ModelLease(lease_id, task, worker),
        )
        self.leases.append(task.lease)

    def end(self, lease: ModelLease, command: Command, *, due: bool = True) -> None:
        """The lease of a held task ends by `command`."""
        task = lease.task
        after = next_state(
            task.status, command, attempts_left=task.attempts < task.max_attempts, cancel_asked=task.cancel_asked
        )
        assert after is not None
        lease.active, lease.cancelled, task.status = False, after is TaskStatus.CANCELLED, after
        if after is TaskStatus.QUEUED:
            task.lease, task.due = None, due
            task.attempts -= command is Command.HAND_BACK


class Machine(RuleBasedStateMachine):
    """Drives the services. The database is emptied before each history."""

    runtime: Replica
    database: FreshDatabase

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.claims = 0
        self.database.edit("truncate bloom.workers, bloom.tasks, bloom.audit_log cascade")

    def call(self, work: Any) -> Any:
        """The outcome of `work`, or the code of its refusal."""
        try:
            return self.runtime.run(work)
        except BloomError as error:
            return error.code

    def pick(self, among: Sequence[T], number: int) -> T:
        return among[number % len(among)]

    def any_lease(self, number: int) -> ModelLease:
        """One of the leases, those that are active first among them."""
        return self.pick(sorted(self.model.leases, key=lambda lease: not lease.active), number)

    def worker(self, number: int) -> str:
        return self.pick(sorted(self.model.slots), number)

    @initialize(attempts=st.lists(st.integers(1, 3), min_size=2, max_size=5), held=st.integers(0, 4))
    def begin(self, attempts: list[int], held: int) -> None:
        """Two workers, some tasks, and some of these held already."""
        self.register("a", 3)
        self.register("b", 1)
        for number in attempts:
            self.create(number, None, True)
        self.claim(0, min(held, 3) or 1, False)
        if held > 3:
            self.claim(1, 1, False)

    @rule(name=st.sampled_from("ab"), slots=st.integers(1, 3))
    def register(self, name: str, slots: int) -> None:
        if name not in self.model.slots:
            request = RegisterWorker(name=name, capabilities=Capabilities(max_concurrency=slots))
            self.call(self.runtime.services.workers.register(request, actor="test"))
            self.model.slots[name] = slots

    @rule(attempts=st.integers(1, 3), key=st.sampled_from([None, None, "k"]), due=st.sampled_from([True, True, False]))
    def create(self, attempts: int, key: str | None, due: bool) -> None:
        run_at = 0 if due else 253_402_300_799_999
        request = CreateTask(
            context_id="c", agent_slug="a", prompt="p", max_attempts=attempts, concurrency_key=key, run_at=run_at
        )
        created = self.call(self.runtime.services.tasks.create(request, actor="test"))
        self.model.tasks.append(ModelTask(created.task.id, attempts, key, due))

    @precondition(lambda self: self.model.tasks and self.model.slots)
    @rule(task=PICK, worker=PICK, routed=st.booleans())
    def lease(self, task: int, worker: int, routed: bool) -> None:
        wanted, name = self.pick(self.model.tasks, task), self.worker(worker)
        named = None if routed else WorkerId(name)
        got = self.call(self.runtime.services.granting.lease(LeaseRequest(TaskId(wanted.id), named, 60, "test")))
        if wanted.status is not TaskStatus.QUEUED:
            assert got == "not_queued"
        elif not wanted.due:
            assert got == "not_due"
        elif self.model.busy(wanted):
            assert got == "busy"
        elif routed and not any(self.model.free(each) > 0 for each in self.model.slots):
            assert got == "no_free_worker"
        elif not routed and self.model.free(name) <= 0:
            assert got == "worker_not_free"
        else:
            assert routed or got.lease.worker_id == name
            self.model.grant(wanted, got.lease.id, got.lease.worker_id)

    @precondition(lambda self: self.model.slots)
    @rule(worker=PICK, slots=st.integers(1, 3), repeats=st.booleans())
    def claim(self, worker: int, slots: int, repeats: bool) -> None:
        name = self.worker(worker)
        expected = self.model.claimable()[: min(slots, max(self.model.free(name), 0))]
        self.claims += 1
        request = ClaimRequest(WorkerId(name), f"claim {self.claims}", slots, 60, 0)
        got = self.call(self.runtime.services.granting.claim(request))
        assert [granted.task.id for granted in got] == [task.id for task in expected]
        for granted, task in zip(got, expected, strict=True):
            self.model.grant(task, granted.lease.id, name)
        if repeats and got:
            again = self.call(self.runtime.services.granting.claim(request))
            assert [granted.lease.id for granted in again] == [granted.lease.id for granted in got]

    @precondition(lambda self: self.model.leases)
    @rule(lease=PICK, by_heartbeat=st.booleans())
    def extend(self, lease: int, by_heartbeat: bool) -> None:
        held = self.any_lease(lease)
        task = held.task
        good = held.active and not held.late
        if by_heartbeat:
            got = self.call(self.runtime.services.holding.heartbeat(TaskId(task.id), LeaseId(held.id)))
            if not good:
                assert got in ("lease_lost", "cancelled")
            elif task.cancel_asked:
                assert got == "cancelled"
            else:
                assert got.id == held.id
        else:
            got = self.call(self.runtime.services.holding.extend(WorkerId(held.worker), [LeaseId(held.id)]))
            if held.worker not in self.model.slots:
                assert got == "worker_not_found"
            else:
                assert got[0].outcome == ("lost" if not good else "cancel" if task.cancel_asked else "held")
        if good and not task.cancel_asked:
            task.status = TaskStatus.RUNNING

    @precondition(lambda self: self.model.leases)
    @rule(lease=PICK, command=st.sampled_from(sorted(REPORTS)), later=st.sampled_from([0, 3600]))
    def report(self, lease: int, command: Command, later: float) -> None:
        held = self.any_lease(lease)
        task = held.task
        body = ReportBody.model_validate(
            {**REPORTS[command], "metrics": Metrics(duration_ms=1), "retry_after_sec": later}
        )
        got = self.call(self.runtime.services.completing.complete(TaskId(task.id), LeaseId(held.id), body))
        if held.active:
            assert (got == "cancelled") if task.cancel_asked else (got.repeated is False)
            self.model.end(held, command, due=command is Command.HAND_BACK or later == 0)
            if task.status is not TaskStatus.QUEUED or command is not Command.HAND_BACK:
                held.reported = (command, later)
        elif held.reported is None:
            assert got in ("lease_lost", "cancelled")
        elif held.cancelled:
            assert got == "cancelled"
        elif held.reported == (command, later):
            assert got.repeated is True
        else:
            assert got == "already_completed"

    @precondition(lambda self: self.model.tasks)
    @rule(task=PICK)
    def cancel(self, task: int) -> None:
        wanted = self.pick(self.model.tasks, task)
        got = self.call(self.runtime.services.tasks.cancel(TaskId(wanted.id), actor="test"))
        assert (got == "already_final") == (wanted.status in FINAL)
        if wanted.status is TaskStatus.QUEUED:
            wanted.status, wanted.due = TaskStatus.CANCELLED, True
        elif wanted.status in HELD:
            wanted.cancel_asked = True

    @precondition(lambda self: self.model.tasks)
    @rule(task=PICK)
    def requeue(self, task: int) -> None:
        wanted = self.pick(self.model.tasks, task)
        got = self.call(self.runtime.services.tasks.requeue(TaskId(wanted.id), actor="test"))
        if wanted.status in FINAL - {TaskStatus.COMPLETED}:
            wanted.status, wanted.attempts, wanted.lease = TaskStatus.QUEUED, 0, None
            wanted.cancel_asked, wanted.due = False, True
        else:
            assert got == "not_requeueable"

    @precondition(lambda self: any(lease.active for lease in self.model.leases))
    @rule(lease=PICK, reap=st.booleans())
    def expire(self, lease: int, reap: bool) -> None:
        late = self.pick([lease for lease in self.model.leases if lease.active], lease)
        late.late = True
        self.database.expire(late.id)
        if reap:
            self.reap()

    @rule()
    def reap(self) -> None:
        expected = [lease for lease in self.model.leases if lease.active and lease.late]
        assert sorted(self.runtime.reap()) == sorted(lease.task.id for lease in expected)
        for lease in expected:
            self.model.end(lease, Command.EXPIRE)

    @precondition(lambda self: any(not task.due for task in self.model.tasks))
    @rule(task=PICK)
    def become_due(self, task: int) -> None:
        wanted = self.pick([task for task in self.model.tasks if not task.due], task)
        self.database.make_due(wanted.id)
        self.call(self.runtime.services.holding.promote_due())
        wanted.due = True

    @precondition(lambda self: self.model.slots)
    @rule(worker=PICK)
    def remove_worker(self, worker: int) -> None:
        name = self.worker(worker)
        self.call(self.runtime.services.removal.remove(WorkerId(name), actor="test"))
        del self.model.slots[name]
        for lease in self.model.leases:
            if lease.active and lease.worker == name:
                cancelled = lease.task.cancel_asked
                self.model.end(lease, Command.HAND_BACK)
                lease.task.attempts -= cancelled

    @invariant()
    def the_tables_are_what_the_model_says(self) -> None:
        rows = self.database.rows("""
            select id, status, attempts, lease_id, cancel_requested_at is not null as cancel_asked, due from bloom.tasks""")
        found = {
            row["id"]: (row["status"], row["attempts"], row["lease_id"], row["cancel_asked"], row["due"])
            for row in rows
        }
        assert found == {task.id: task.told() for task in self.model.tasks}

    @invariant()
    def the_invariants_hold(self) -> None:
        assert not violations(self.database)


def test_random_histories_follow_the_model_and_keep_the_invariants(runtime: Replica, database: FreshDatabase) -> None:
    class OnThisRuntime(Machine):
        pass

    OnThisRuntime.runtime, OnThisRuntime.database = runtime, database
    run_state_machine_as_test(
        OnThisRuntime,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
