"""Tasks and leases as the domain sees them: states, the commands that move them, and what a row carries.

`next_state` is the whole state machine; the SQL of this slice is checked against it state by state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from bloom.base.ids import ArtifactId, LeaseId, ResultId, TaskId, WorkerId


class TaskStatus(StrEnum):
    """Where a task is on its way."""

    QUEUED = "queued"
    LEASED = "leased"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    DEAD = "dead"
    CANCELLED = "cancelled"


class LeaseStatus(StrEnum):
    """`released` ended well or was handed back, `failed` ended with an error, `expired` was reaped."""

    ACTIVE = "active"
    RELEASED = "released"
    EXPIRED = "expired"
    FAILED = "failed"


HELD = frozenset({TaskStatus.LEASED, TaskStatus.RUNNING})
"""A worker holds the task."""

FINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.DEAD, TaskStatus.CANCELLED})
"""Nothing moves the task but a requeue."""


class Command(StrEnum):
    """What can happen to a task."""

    GRANT = "grant"  # a lease call or a claim
    EXTEND = "extend"  # a heartbeat, an extend or an event of the holder
    COMPLETE = "complete"  # the holder reports success
    FAIL = "fail"  # the holder reports an error that is not to be tried again
    RETRY = "retry"  # the holder reports an error that may be tried again
    HAND_BACK = "hand_back"  # the holder stops before the end, through no fault of the task
    EXPIRE = "expire"  # the reaper takes a lease that was not renewed in time
    CANCEL = "cancel"  # a person wants it ended
    REQUEUE = "requeue"  # a person wants it run again


def next_state(status: TaskStatus, command: Command, *, attempts_left: bool, cancel_asked: bool) -> TaskStatus | None:
    """The state that `command` leads to, or None when it is refused in this state.

    `attempts_left`: attempts < max_attempts. `cancel_asked`: a person asked for the end of a task that a worker holds;
    whoever ends its lease then ends it as cancelled. A CANCEL of a held task keeps its state and marks it.
    """
    held = status in HELD
    match command:
        case Command.GRANT:
            return TaskStatus.LEASED if status is TaskStatus.QUEUED else None
        case Command.CANCEL:
            if held:
                return status
            return TaskStatus.CANCELLED if status is TaskStatus.QUEUED else None
        case Command.REQUEUE:
            return TaskStatus.QUEUED if status in FINAL - {TaskStatus.COMPLETED} else None
        case _ if not held:
            return None
        case Command.EXTEND:
            return status if cancel_asked else TaskStatus.RUNNING
        case _ if cancel_asked:
            return TaskStatus.CANCELLED
        case Command.COMPLETE:
            return TaskStatus.COMPLETED
        case Command.FAIL:
            return TaskStatus.FAILED
        case Command.HAND_BACK:
            return TaskStatus.QUEUED
        case Command.RETRY | Command.EXPIRE:
            return TaskStatus.QUEUED if attempts_left else TaskStatus.DEAD


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task comes from: the id of the request that makes it, and the caller's place in a trace (a W3C traceparent)."""

    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One row of `tasks`. `request_id` made it; its spans lie below `traceparent`."""

    id: TaskId
    seq: int
    context_id: str
    agent_slug: str
    prompt: str
    context_hints: Sequence[str]
    timeout_sec: int
    budget: float
    desired_format: str
    status: TaskStatus
    priority: int
    run_at: datetime | None
    labels: Sequence[str]
    concurrency_key: str | None
    retry_base_sec: float
    retry_max_sec: float
    attempts: int
    max_attempts: int
    lease_id: LeaseId | None
    worker_id: WorkerId | None
    cancel_requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    request_id: str | None = None
    traceparent: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """One row of `leases`. `ttl_seconds` is what each renewal adds."""

    id: LeaseId
    seq: int
    task_id: TaskId
    worker_id: WorkerId
    context_id: str
    status: LeaseStatus
    started_at: datetime
    expires_at: datetime
    ttl_seconds: int
    last_heartbeat: datetime | None


@dataclass(frozen=True, slots=True)
class Held:
    """A task that a worker holds, by its active `lease`; `prompt` is the beginning of it."""

    lease: Lease
    agent_slug: str
    prompt: str
    status: TaskStatus
    cancel_asked: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """A lease of a task as one try to run it. `ended_at` None while it lasts."""

    lease_id: LeaseId
    worker_id: WorkerId
    status: LeaseStatus
    started_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are wanted; None: any. `label` is one of theirs; `text` stands at the beginning of their prompts (the first
    16,384 characters), in whatever case.
    """

    status: TaskStatus | None = None
    agent: str | None = None
    context: str | None = None
    worker: str | None = None
    label: str | None = None
    text: str | None = None

    @property
    def is_indexed(self) -> bool:
        """Whether the database finds these without passing over others."""
        return (self.agent, self.context, self.worker, self.label, self.text) == (None,) * 5


@dataclass(frozen=True, slots=True)
class Search:
    """Tasks that were found, newest first. `looked_to` is the `seq` behind which to go on, None when there is none; `more`:
    others are known to be there, else only that not all were looked at.
    """

    tasks: Sequence[Task]
    looked_to: int | None
    more: bool


@dataclass(frozen=True, slots=True)
class Result:
    """One row of `results`: what one attempt reported. `code` is the stable code of an error."""

    id: ResultId
    task_id: TaskId
    lease_id: LeaseId
    worker_id: WorkerId
    artifact_id: ArtifactId | None
    status: str
    output: str | None
    error_message: str | None
    code: str | None
    metrics: dict[str, Any]
    completed_at: datetime
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class RejectedResult:
    """One row of `rejected_results`: what a worker reported of a lease that it had lost, for the `reason` that it ended."""

    id: ResultId
    task_id: TaskId
    lease_id: LeaseId
    worker_id: WorkerId
    status: str
    output: str | None
    error_message: str | None
    code: str | None
    metrics: dict[str, Any]
    reason: str
    rejected_at: datetime
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One numbered piece of a run. `id` counts all events of the task from 1; `seq` those of one lease."""

    id: int
    task_id: TaskId
    lease_id: LeaseId
    seq: int
    at: datetime
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Tasks that can be claimed and ask for these labels: how many (up to a bound), and the age of the oldest of them."""

    labels: Sequence[str]
    tasks: int
    oldest_sec: float


@dataclass(frozen=True, slots=True)
class QueueGauges:
    """The queue at a moment. `others`: tasks that can be claimed and ask for further sets of labels. Times in seconds, 0 where
    there is nothing; counts other than `by_status` go up to a bound.
    """

    by_status: Mapping[TaskStatus, int]
    waiting: Sequence[Waiting]
    others: int
    oldest_queued_sec: float
    oldest_held_sec: float
    scheduled: int
    without_turn: int
    outputs_to_move: int
