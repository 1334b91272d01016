"""Workers as the domain sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from bloom.base.ids import WorkerId

OFFLINE_AFTER_SEC = 60
"""A worker that uses claim goes offline after this much silence (wire contract, lease rules)."""


class WorkerStatus(StrEnum):
    """What is known of a worker. Only an `online` one gets leases."""

    ONLINE = "online"
    OFFLINE = "offline"
    SYNCING = "syncing"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of `workers`, its active leases counted. `board` is a `bloom.workers.schemas.Board`, as plain JSON."""

    id: WorkerId
    node_id: str | None
    url: str | None
    status: WorkerStatus
    draining: bool
    claims: bool
    claude_cli: bool
    max_concurrency: int
    labels: Sequence[str]
    ip_addrs: Sequence[str]
    obs_count: int | None
    db_sha: str | None
    agent_version: str | None
    os_info: str | None
    install_method: str | None
    registered_at: datetime
    last_heartbeat: datetime | None
    board: Mapping[str, Any] | None
    active_leases: int

    @property
    def free_slots(self) -> int:
        """How many more leases it may hold."""
        return max(self.max_concurrency - self.active_leases, 0)


@dataclass(frozen=True, slots=True)
class ListedWorker:
    """What Membridge's list says of a worker; None: nothing. `age_sec`: how long ago Membridge heard from it."""

    id: WorkerId
    url: str | None
    status: WorkerStatus | None
    claude_cli: bool | None
    max_concurrency: int | None
    labels: Sequence[str] | None
    age_sec: float
