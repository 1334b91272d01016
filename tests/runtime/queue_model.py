"""What the runtime ought to do, in a few lines: the other side of test_state_machine.py."""

from collections import Counter
from dataclasses import dataclass, field

from bloom.tasks.model import HELD, Command, LeaseStatus, TaskStatus, next_state

TTL_SEC = 60
_ENDS_WELL = {Command.COMPLETE, Command.HAND_BACK}


@dataclass
class ModelTask:
    """What a task ought to be. `run_at` is in seconds of the model's clock."""

    id: str
    max_attempts: int
    key: str | None
    priority: int
    run_at: float
    due: bool
    status: TaskStatus = TaskStatus.QUEUED
    attempts: int = 0
    lease: "ModelLease | None" = None
    cancel_asked: bool = False

    def told(self) -> tuple[str, int, str | None, str | None, bool, bool]:
        lease = self.lease
        lease_id, worker = (None, None) if lease is None else (lease.id, lease.worker)
        return (self.status, self.attempts, lease_id, worker, self.cancel_asked, self.due)


@dataclass
class ModelLease:
    """What a lease ought to be. `reported` is what ended it, if a report did; `rejected`: one came too late and was kept."""

    id: str
    task: ModelTask
    worker: str
    expires_at: float
    status: LeaseStatus = LeaseStatus.ACTIVE
    reported: tuple[Command, float] | None = None
    cancelled: bool = False
    rejected: bool = False
    events: int = 0

    @property
    def active(self) -> bool:
        return self.status is LeaseStatus.ACTIVE

    @property
    def refusal(self) -> str:
        """What its holder is told once it is not current any more, or past its end."""
        return "cancelled" if self.task.lease is self and self.task.status is TaskStatus.CANCELLED else "lease_lost"

    def told(self) -> tuple[str, str, str, int, int, int]:
        return (self.task.id, self.worker, self.status, self.events, self.reported is not None, self.rejected)


@dataclass
class ModelWorker:
    """What a worker ought to be."""

    slots: int
    draining: bool = False
    online: bool = True


@dataclass
class Model:
    """The runtime. `now` counts seconds."""

    now: float = 0
    tasks: list[ModelTask] = field(default_factory=list[ModelTask])
    leases: list[ModelLease] = field(default_factory=list[ModelLease])
    workers: dict[str, ModelWorker] = field(default_factory=dict[str, ModelWorker])

    def free(self, worker: str) -> int:
        return self.workers[worker].slots - sum(lease.active and lease.worker == worker for lease in self.leases)

    def takes(self, worker: str) -> bool:
        """Whether a lease call may give it a task."""
        known = self.workers[worker]
        return known.online and not known.draining and self.free(worker) > 0

    def late(self, lease: ModelLease) -> bool:
        return lease.expires_at <= self.now

    def busy(self, task: ModelTask) -> bool:
        before = self.tasks[: self.tasks.index(task)]
        return task.key is not None and any(
            other.key == task.key and (other.status in HELD or (other.status is TaskStatus.QUEUED and other in before))
            for other in self.tasks
            if other is not task
        )

    def claimable(self) -> list[ModelTask]:
        """What a claim may get, in the order of the queue."""
        found = [task for task in self.tasks if task.status is TaskStatus.QUEUED and task.due and not self.busy(task)]
        return sorted(found, key=lambda task: -task.priority)

    def promote(self) -> None:
        for task in self.tasks:
            task.due = task.due or task.run_at <= self.now

    def grant(self, task: ModelTask, lease_id: str, worker: str) -> None:
        task.status, task.attempts = TaskStatus.LEASED, task.attempts + 1
        task.lease = ModelLease(lease_id, task, worker, self.now + TTL_SEC)
        self.leases.append(task.lease)

    def keep(self, lease: ModelLease) -> None:
        """A lease that is current and not late is renewed."""
        lease.expires_at = self.now + TTL_SEC
        if not lease.task.cancel_asked:
            lease.task.status = TaskStatus.RUNNING
        self.hear(lease.worker)

    def hear(self, worker: str) -> None:
        if worker in self.workers:
            self.workers[worker].online = True

    def end(self, lease: ModelLease, command: Command, *, backoff: float = 0) -> None:
        """The lease of a held task ends by `command`; a retried task waits `backoff` seconds."""
        task = lease.task
        after = next_state(
            task.status, command, attempts_left=task.attempts < task.max_attempts, cancel_asked=task.cancel_asked
        )
        assert after is not None
        lease.cancelled, task.status = after is TaskStatus.CANCELLED, after
        if command is Command.EXPIRE:
            lease.status = LeaseStatus.EXPIRED
        else:
            lease.status = LeaseStatus.RELEASED if lease.cancelled or command in _ENDS_WELL else LeaseStatus.FAILED
        if after is TaskStatus.QUEUED:
            task.lease, task.run_at, task.due = None, self.now + backoff, backoff <= 0
            task.attempts -= command is Command.HAND_BACK

    def count(self) -> dict[str, int]:
        """How many tasks are in each state."""
        counted = Counter(task.status for task in self.tasks)
        return {status.value: counted[status] for status in TaskStatus}
