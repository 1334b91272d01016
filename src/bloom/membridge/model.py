"""Membridge as the domain sees it, and the one rule by which a project gets its primary."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

ONLINE_SEC = 60
"""An agent or node not heard from for longer is offline (wire contract, 2.1)."""

DEFAULT_LEASE_SECONDS = 3600
"""`LEADERSHIP_LEASE_SECONDS` of the wire contract."""


def canonical_id_of(project_name: str) -> str:
    """The id of a project: the first 16 hex digits of the SHA-256 of its name (wire contract, 2.2)."""
    return hashlib.sha256(project_name.encode()).hexdigest()[:16]


def version_key(canonical_id: str, epoch: int, sha256: str) -> str:
    """Where the file of a version lies in the bucket (wire contract, 2.3)."""
    return f"projects/{canonical_id}/sqlite/versions/{epoch}-{sha256}/claude-mem.db"


class NodeRole(StrEnum):
    """What a node is in a project. Whatever is not `primary` must not push."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    UNKNOWN = "unknown"
    """Nobody has led this project yet."""


class GrantReason(StrEnum):
    """Why a term began."""

    SELECTED = "selected"
    """A person said so."""
    PREFERRED = "preferred"
    """The lease had ended, and the node is the one that was selected last."""
    FRESHEST = "freshest"
    """The lease had ended, and no other node that asks has a newer memory."""


class JobStatus(StrEnum):
    """`queued → running → done | failed | timed_out`; a queued one may time out, too."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


class MembridgeAction(StrEnum):
    """What can be found in Membridge's audit log, written in the transaction that changes the state."""

    PROJECT_CREATED = "project_created"
    PROJECT_DELETED = "project_deleted"
    AGENT_DELETED = "agent_deleted"
    LEADERSHIP_SELECTED = "leadership_selected"
    LEADERSHIP_GRANTED = "leadership_granted"
    VERSION_PUSHED = "version_pushed"
    VERSION_RESTORED = "version_restored"
    VERSION_DELETED = "version_deleted"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one node to lead a project, for one term (`epoch`), while `expires_at` lies ahead."""

    epoch: int
    node_id: str
    lease_seconds: int
    issued_at: datetime
    issued_by: str
    expires_at: datetime

    def holds(self, now: datetime) -> bool:
        """Whether it has not ended."""
        return now < self.expires_at


@dataclass(frozen=True, slots=True)
class Project:
    """One row of `projects`. `lease` is the present or the last one, None before the first; `epoch` never falls."""

    canonical_id: str
    name: str
    source: str
    created_at: datetime
    last_seen: datetime | None
    epoch: int
    preferred_primary: str | None
    current_sha256: str | None
    lease: Lease | None
    nodes_count: int = 0

    def holder(self, now: datetime) -> str | None:
        """The node that leads now."""
        return self.lease.node_id if self.lease is not None and self.lease.holds(now) else None

    def role_of(self, node_id: str, now: datetime) -> NodeRole:
        """What the node is now."""
        if self.holder(now) == node_id:
            return NodeRole.PRIMARY
        return NodeRole.SECONDARY if self.lease is not None else NodeRole.UNKNOWN


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that takes part in one project. `asks`: its last heartbeat asked for leadership."""

    canonical_id: str
    node_id: str
    project_id: str | None
    obs_count: int | None
    db_sha: str | None
    ip_addrs: Sequence[str]
    agent_version: str | None
    asks: bool
    registered_at: datetime
    last_seen: datetime

    def is_online(self, now: datetime) -> bool:
        """Whether it was heard from in the last minute."""
        return now - self.last_seen <= timedelta(seconds=ONLINE_SEC)


def elect(project: Project, nodes: Sequence[Node], now: datetime) -> tuple[Node, GrantReason] | None:
    """Whose turn it is to lead `project`, whose lease has ended; None when no node may.

    Those that may are online and ask. The node that let the lease end does so again only once it has been heard from since:
    it may be gone. First comes the preferred primary, then who holds the current version, then who has more observations,
    then who was heard from last.
    """
    lapsed = project.lease

    def may(node: Node) -> bool:
        is_silent = lapsed is not None and node.node_id == lapsed.node_id and node.last_seen <= lapsed.expires_at
        return node.asks and not is_silent and node.is_online(now)

    candidates = [node for node in nodes if may(node)]
    for node in candidates:
        if node.node_id == project.preferred_primary:
            return node, GrantReason.PREFERRED
    if not candidates:
        return None

    def freshness(node: Node) -> tuple[bool, int, datetime, str]:
        has_current = project.current_sha256 is not None and node.db_sha == project.current_sha256
        return has_current, -1 if node.obs_count is None else node.obs_count, node.last_seen, node.node_id

    return max(candidates, key=freshness), GrantReason.FRESHEST


@dataclass(frozen=True, slots=True)
class Version:
    """One pushed snapshot of a project's memory. `based_on`: the version that its pusher had synced with before."""

    canonical_id: str
    sha256: str
    epoch: int
    key: str
    db_size: int
    counts: Mapping[str, int]
    node_id: str
    based_on: str | None
    created_at: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """A machine that runs sync jobs. `polled_at`: when it last came for them by itself."""

    name: str
    url: str | None
    status: str
    claude_cli: bool
    max_concurrency: int
    labels: Sequence[str]
    registered_at: datetime
    last_seen: datetime
    polled_at: datetime | None
    now: datetime

    @property
    def online(self) -> bool:
        """Whether it was heard from in the last minute."""
        return self.now - self.last_seen <= timedelta(seconds=ONLINE_SEC)

    @property
    def polls(self) -> bool:
        """Whether it came for its jobs in the last minute."""
        return self.polled_at is not None and self.now - self.polled_at <= timedelta(seconds=ONLINE_SEC)


@dataclass(frozen=True, slots=True)
class Job:
    """One push or pull that an agent is told to run. `progress` 0 to 1, where the agent tells it."""

    id: str
    action: str
    canonical_id: str
    project: str
    agent: str
    dryrun: bool
    status: JobStatus
    detail: str | None
    stdout: str | None
    stderr: str | None
    returncode: int | None
    progress: float | None
    request_id: str | None
    created_at: datetime
    deadline: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class MembridgeAuditEntry:
    """One row of Membridge's `audit_log`."""

    id: int
    at: datetime
    action: str
    entity_type: str
    entity_id: str
    actor: str
    detail: dict[str, Any]
