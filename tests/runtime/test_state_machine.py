"""Random histories of many tasks and workers against a small model, through the real services, whose clock is moved."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

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
from tests.runtime.queue_model import TTL_SEC, Model, ModelLease, ModelTask, ModelWorker

from bloom.base.clock import to_ms
from bloom.base.errors import BloomError
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.tasks.model import FINAL, HELD, Command, TaskStatus
from bloom.tasks.schemas import CreateTask, Metrics, NewEvent, ReportBody
from bloom.tasks.service.granting import ClaimRequest, LeaseRequest
from bloom.tasks.service.holding import EventsCall
from bloom.workers.schemas import Capabilities, RegisterWorker

T = TypeVar("T")
PICK = st.integers(0, 11) | st.integers(0, 2)
REPORTS = {
    Command.COMPLETE: {"status": "success", "output": "done"},
    Command.FAIL: {"status": "error", "error_message": "no"},
    Command.RETRY: {"status": "error", "error_message": "again", "retryable": True},
    Command.HAND_BACK: {"status": "error", "hand_back": True},
}
BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)


class Machine(RuleBasedStateMachine):
    """Drives the services. The database is emptied before each history."""

    runtime: Replica
    database: FreshDatabase

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.services = self.runtime.services
        self.claims = 0
        self.advance(0)
        with self.database.unguarded():
            self.database.edit("truncate bloom.workers, bloom.tasks, bloom.audit_log, bloom.counts cascade")

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
        return self.pick(sorted(self.model.workers), number)

    @initialize(attempts=st.lists(st.integers(1, 3), min_size=2, max_size=5), held=st.integers(0, 4))
    def begin(self, attempts: list[int], held: int) -> None:
        """Two workers, some tasks, and some of these held already."""
        self.register("a", 3)
        self.register("b", 1)
        for number in attempts:
            self.create(number, None, 0, 0)
        self.claim(0, min(held, 3) or 1, False)
        if held > 3:
            self.claim(1, 1, False)

    @rule(seconds=st.sampled_from([1, 20, TTL_SEC, TTL_SEC]))
    def advance(self, seconds: float) -> None:
        self.model.now += seconds
        self.services.database.now = BEGINNING + timedelta(seconds=self.model.now)

    @rule(name=st.sampled_from("ab"), slots=st.integers(1, 3))
    def register(self, name: str, slots: int) -> None:
        request = RegisterWorker(name=name, capabilities=Capabilities(max_concurrency=slots))
        _, new = self.call(self.services.workers.register(request, actor="test"))
        assert new == (name not in self.model.workers)
        known = self.model.workers.setdefault(name, ModelWorker(slots))
        known.slots, known.online = slots, True
        # It uses the worker plane from now on: silence means offline.
        assert self.call(self.services.holding.extend(WorkerId(name), [])) == []

    @rule(
        attempts=st.integers(1, 3),
        key=st.sampled_from([None, None, "k"]),
        priority=st.sampled_from([0, 0, 5]),
        wait=st.sampled_from([0, 0, 30]),
    )
    def create(self, attempts: int, key: str | None, priority: int, wait: float) -> None:
        moment = self.model.now + wait
        request = CreateTask(
            context_id="c",
            agent_slug="a",
            prompt="p",
            max_attempts=attempts,
            concurrency_key=key,
            priority=priority,
            run_at=to_ms(BEGINNING + timedelta(seconds=moment)),
        )
        created = self.call(self.services.tasks.create(request, actor="test"))
        self.model.tasks.append(ModelTask(created.task.id, attempts, key, priority, moment, wait <= 0))

    @precondition(lambda self: self.model.tasks and self.model.workers)
    @rule(task=PICK, worker=PICK, routed=st.booleans())
    def lease(self, task: int, worker: int, routed: bool) -> None:
        wanted, name = self.pick(self.model.tasks, task), self.worker(worker)
        named = None if routed else WorkerId(name)
        got = self.call(self.services.granting.lease(LeaseRequest(TaskId(wanted.id), named, TTL_SEC, "test")))
        if wanted.status is TaskStatus.QUEUED and not wanted.due:
            self.model.promote()  # only then does it look whether a time has come
        if wanted.status is not TaskStatus.QUEUED:
            assert got == "not_queued"
        elif not wanted.due:
            assert got == "not_due"
        elif self.model.busy(wanted):
            assert got == "busy"
        elif routed and not any(self.model.takes(each) for each in self.model.workers):
            assert got == "no_free_worker"
        elif not routed and not self.model.takes(name):
            assert got == "worker_not_free"
        else:
            assert self.model.takes(got.lease.worker_id) and (routed or got.lease.worker_id == name)
            self.model.grant(wanted, got.lease.id, got.lease.worker_id)

    @precondition(lambda self: self.model.workers)
    @rule(worker=PICK, slots=st.integers(1, 3), repeats=st.booleans())
    def claim(self, worker: int, slots: int, repeats: bool) -> None:
        name = self.worker(worker)
        self.model.promote()
        self.model.hear(name)
        seats = 0 if self.model.workers[name].draining else min(slots, max(self.model.free(name), 0))
        expected = self.model.claimable()[:seats]
        self.claims += 1
        request = ClaimRequest(WorkerId(name), f"claim {self.claims}", slots, TTL_SEC, 0)
        got = self.call(self.services.granting.claim(request))
        assert [granted.task.id for granted in got] == [task.id for task in expected]
        for granted, task in zip(got, expected, strict=True):
            self.model.grant(task, granted.lease.id, name)
        if repeats and got:
            again = self.call(self.services.granting.claim(request))
            assert [granted.lease.id for granted in again] == [granted.lease.id for granted in got]

    @precondition(lambda self: self.model.leases)
    @rule(lease=PICK)
    def extend(self, lease: int) -> None:
        held = self.any_lease(lease)
        got = self.call(self.services.holding.extend(WorkerId(held.worker), [LeaseId(held.id)]))
        self.model.hear(held.worker)
        good = held.active and not self.model.late(held)
        if held.worker not in self.model.workers:
            assert got == "worker_not_found"
        else:
            assert got[0].outcome == ("lost" if not good else "cancel" if held.task.cancel_asked else "held")
        if good:
            self.model.keep(held)

    @precondition(lambda self: self.model.leases)
    @rule(lease=PICK)
    def heartbeat(self, lease: int) -> None:
        held = self.any_lease(lease)
        got = self.call(self.services.holding.heartbeat(TaskId(held.task.id), LeaseId(held.id)))
        if not held.active:
            assert got == held.refusal
        elif held.task.cancel_asked:
            assert got == "cancelled"
        elif self.model.late(held):
            assert got == "lease_lost"
        else:
            assert got.id == held.id
            self.model.keep(held)

    @precondition(lambda self: self.model.leases)
    @rule(lease=PICK, seq=st.sampled_from(["next", "next", "again", "gap"]))
    def events(self, lease: int, seq: str) -> None:
        held = self.any_lease(lease)
        number = held.events + {"next": 1, "again": 0, "gap": 2}[seq] or 1
        event = NewEvent(seq=number, type="text")
        got = self.call(
            self.services.holding.append_events(EventsCall(TaskId(held.task.id), LeaseId(held.id), [event]))
        )
        if not held.active:
            assert got == held.refusal
            return
        if seq == "gap":
            assert got == "events_gap"
        else:
            new = number > held.events
            held.events += new
            assert (got.accepted, got.next_seq, got.cancel) == (new, held.events + 1, held.task.cancel_asked)
        if not self.model.late(held):
            self.model.keep(held)

    @precondition(lambda self: self.model.leases)
    @rule(lease=PICK, command=st.sampled_from(sorted(REPORTS)), later=st.sampled_from([0, 30]), by_worker=st.booleans())
    def report(self, lease: int, command: Command, later: float, by_worker: bool) -> None:
        held = self.any_lease(lease)
        task = held.task
        body = ReportBody.model_validate(
            {**REPORTS[command], "metrics": Metrics(duration_ms=1), "retry_after_sec": later}
        )
        worker = WorkerId(held.worker) if by_worker else None
        got = self.call(self.services.completing.complete(TaskId(task.id), LeaseId(held.id), body, worker_id=worker))
        if held.active:
            assert (got == "cancelled") if task.cancel_asked else (got.repeated is False)
            self.model.end(held, command, backoff=later if command is Command.RETRY else 0)
            self.model.hear(held.worker)
            if task.status is not TaskStatus.QUEUED or command is not Command.HAND_BACK:
                held.reported = (command, later)
        elif held.reported is None:
            assert got == held.refusal
            held.rejected |= got == "lease_lost" and by_worker and command is not Command.HAND_BACK
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
        got = self.call(self.services.tasks.cancel(TaskId(wanted.id), actor="test"))
        assert (got == "already_final") == (wanted.status in FINAL)
        if wanted.status is TaskStatus.QUEUED:
            wanted.status, wanted.due = TaskStatus.CANCELLED, True
        elif wanted.status in HELD:
            wanted.cancel_asked = True

    @precondition(lambda self: self.model.tasks)
    @rule(task=PICK)
    def requeue(self, task: int) -> None:
        wanted = self.pick(self.model.tasks, task)
        got = self.call(self.services.tasks.requeue(TaskId(wanted.id), actor="test"))
        if wanted.status in FINAL - {TaskStatus.COMPLETED}:
            wanted.status, wanted.attempts, wanted.lease = TaskStatus.QUEUED, 0, None
            wanted.cancel_asked, wanted.due = False, True
        else:
            assert got == "not_requeueable"

    @rule()
    def reap(self) -> None:
        expected = [lease for lease in self.model.leases if lease.active and self.model.late(lease)]
        assert sorted(self.runtime.reap()) == sorted(lease.task.id for lease in expected)
        for lease in expected:
            self.model.end(lease, Command.EXPIRE)

    @rule()
    def promote(self) -> None:
        self.call(self.services.holding.promote_due())
        self.model.promote()

    @rule()
    def silence(self) -> None:
        """Nobody says anything for an hour."""
        self.advance(3600)
        expected = [name for name, worker in self.model.workers.items() if worker.online]
        assert sorted(self.call(self.services.holding.mark_silent_workers())) == sorted(expected)
        for name in expected:
            self.model.workers[name].online = False

    @precondition(lambda self: self.model.workers)
    @rule(worker=PICK, draining=st.booleans())
    def drain(self, worker: int, draining: bool) -> None:
        name, change = self.worker(worker), self.services.workers
        self.call((change.drain if draining else change.resume)(WorkerId(name), actor="test"))
        self.model.workers[name].draining = draining

    @precondition(lambda self: self.model.workers)
    @rule(worker=PICK)
    def remove_worker(self, worker: int) -> None:
        name = self.worker(worker)
        self.call(self.services.removal.remove(WorkerId(name), actor="test"))
        del self.model.workers[name]
        for lease in self.model.leases:
            if lease.active and lease.worker == name:
                cancelled = lease.task.cancel_asked
                self.model.end(lease, Command.HAND_BACK)
                lease.task.attempts -= cancelled

    @invariant()
    def the_tables_are_what_the_model_says(self) -> None:
        tasks = self.database.rows("""
            select id, status, attempts, lease_id, worker_id, cancel_requested_at is not null as cancel_asked, due
            from bloom.tasks""")
        leases = self.database.rows("""
            select l.id, l.task_id, l.worker_id, l.status,
                   (select count(*) from bloom.task_events e where e.lease_id = l.id) as events,
                   (select count(*) from bloom.results r where r.lease_id = l.id) as results,
                   (select count(*) from bloom.rejected_results r where r.lease_id = l.id) as rejected
            from bloom.leases l""")
        workers = self.database.rows("select id, max_concurrency, draining, status = 'online' from bloom.workers")
        found = [{row.pop("id"): tuple(row.values()) for row in rows} for rows in (tasks, leases, workers)]
        assert found == [
            {task.id: task.told() for task in self.model.tasks},
            {lease.id: lease.told() for lease in self.model.leases},
            {name: (worker.slots, worker.draining, worker.online) for name, worker in self.model.workers.items()},
        ]

    def teardown(self) -> None:
        """At the end of each history: the whole of it is legal, and was counted right."""
        assert not violations(self.database)
        assert self.call(self.services.tasks.stats())["tasks"]["by_status"] == self.model.count()


def test_random_histories_follow_the_model_and_keep_the_invariants(runtime: Replica, database: FreshDatabase) -> None:
    class OnThisRuntime(Machine):
        pass

    OnThisRuntime.runtime, OnThisRuntime.database = runtime, database
    # Each sign of life is noted, however soon it comes after another: the model knows no clock but its own.
    with patch("bloom.workers.service.NOTED_FOR_SEC", 0):
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
