"""What is read of Membridge's answers for pages, whichever release of it answers: what it does not say is None.

Times are moments in UTC; on Membridge's wire they are epoch seconds of projects and agents, epoch milliseconds elsewhere.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

LATEST_MS = 253_402_300_799_999


def _moment(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST_MS:
        return datetime.fromtimestamp(value / 1000, UTC)
    return None


def _moment_of_sec(value: object) -> object:
    return _moment(value * 1000) if isinstance(value, int | float) else None


Ms = Annotated[datetime | None, BeforeValidator(_moment)]
Sec = Annotated[datetime | None, BeforeValidator(_moment_of_sec)]
Line = Annotated[str, AfterValidator(lambda text: text[:500])]


class Told(BaseModel):
    """Base of what Membridge tells."""

    model_config = ConfigDict(extra="ignore")


class Project(Told):
    """A project."""

    name: Line
    canonical_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    created_at: Sec = None
    last_seen: Sec = None
    nodes_count: int | None = None


class SyncAgent(Told):
    """A machine that runs sync jobs."""

    name: Line
    status: Line = "unknown"
    last_seen: Sec = None


class Node(Told):
    """A node of a project. `obs_count`: rows of its session memory; `db_sha`: the digest of that."""

    node_id: Line
    role: Line = "unknown"
    obs_count: int | None = None
    db_sha: Line | None = None
    last_seen: Ms = None
    ip_addrs: list[Line] = []
    agent_version: Line | None = None
    online: bool | None = None


class ProjectLease(Told):
    """The present term of a primary, or the last one."""

    primary_node_id: Line
    issued_at: Ms = None
    expires_at: Ms = None
    lease_seconds: int | None = None
    epoch: int | None = None

    @property
    def lasts(self) -> bool:
        """Whether it has not ended yet."""
        return self.expires_at is not None and self.expires_at > datetime.now(UTC)


class Leadership(Told):
    """Who leads a project."""

    preferred_primary: Line | None = None
    nodes: list[Node] = []
    lease: ProjectLease | None = None

    @property
    def leader(self) -> str | None:
        """The node that leads now."""
        return self.lease.primary_node_id if self.lease is not None and self.lease.lasts else None


class SyncJob(Told):
    """A sync job. `progress` is between 0 and 1."""

    id: Line
    action: Line
    agent: Line
    canonical_id: Line | None = None
    status: Line
    detail: Line | None = None
    dryrun: bool = False
    created_at: Ms = None
    finished_at: Ms = None
    progress: Annotated[float, Field(ge=0, le=1)] | None = None


class MemoryVersion(Told):
    """A pushed snapshot. `counts`: rows by table."""

    sha256: Line
    epoch: int | None = None
    db_size: int | None = None
    counts: Mapping[str, int] = {}
    node_id: Line | None = None
    created_at: Annotated[Ms, Field(validation_alias="created_at_ms")] = None
    current: bool = False


class Ordered(Told):
    """What became of the order of a sync job."""

    ok: bool = True
    detail: Line = ""
    job_id: Line = ""


Direction = Literal["push", "pull"]
