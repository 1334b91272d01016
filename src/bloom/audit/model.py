"""The vocabulary of the audit log."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

REAPER = "system:reaper"
"""The actor of what happens because a lease was not renewed in time."""

MEMBRIDGE = "system:membridge"
"""The actor of what the runtime takes over from Membridge's list of agents."""


RETENTION = "system:retention"
"""The actor of what happens because a task ended long ago."""


def worker_actor(worker_id: str) -> str:
    """The actor name of a worker that reports."""
    return f"worker:{worker_id}"


def key_actor(key_name: str) -> str:
    """The actor name of whoever shows a named key."""
    return f"key:{key_name}"


class AuditAction(StrEnum):
    """What can be found in the log; each is written in the statement that changes the state."""

    TASK_CREATED = "task_created"
    TASK_LEASED = "task_leased"
    TASK_COMPLETED = "task_completed"
    TASK_RETRIED = "task_retried"
    TASK_DEAD = "task_dead"
    TASK_CANCEL_REQUESTED = "task_cancel_requested"
    TASK_CANCELLED = "task_cancelled"
    TASK_REQUEUED = "task_requeued"
    TASKS_PRUNED = "tasks_pruned"
    LEASE_EXPIRED = "lease_expired"
    WORKER_REGISTERED = "worker_registered"
    WORKER_UPDATED = "worker_updated"
    WORKER_REMOVED = "worker_removed"
    WORKER_DRAINED = "worker_drained"
    WORKER_RESUMED = "worker_resumed"
    KEY_CREATED = "key_created"
    KEY_ROTATED = "key_rotated"
    KEY_REVOKED = "key_revoked"
    CONFIG_UPDATED = "config_updated"
    CONNECTION_TEST = "connection_test"
    LEADERSHIP_PROMOTE = "leadership_promote"
    SYNC_ORDERED = "sync_ordered"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order in which transactions were begun: the one behind the entry `id` of the transaction `tx`."""

    tx: int
    id: int


@dataclass(frozen=True, slots=True)
class Seal:
    """What fixes the entries `ids`, the first of which has the number `first_n` in the chain."""

    first_n: int
    ids: list[int]
    marks: bytes
    """Of each entry the first bytes of its digest: they tell which one was changed."""
    hash: bytes
    """The chain's hash after the last of them."""
    last: Position
    """Of the last of them."""

    @property
    def last_n(self) -> int:
        """The number of the last entry."""
        return self.first_n + len(self.ids) - 1


@dataclass(frozen=True, slots=True)
class Export:
    """A file of sealed entries in the object store. `hash`: the chain's after the last of them."""

    first_n: int
    last_n: int
    hash: bytes
    object_key: str


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are asked for; None: any. `since` is included, `until` is not."""

    action: AuditAction | None = None
    actor: str | None = None
    entity_type: str | None = None
    entity_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One row of `audit_log`."""

    id: int
    at: datetime
    action: str
    entity_type: str
    entity_id: str
    actor: str
    detail: dict[str, Any]
