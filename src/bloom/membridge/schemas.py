"""The wire of Membridge (contract, 2.2). Times are epoch milliseconds, except for projects and agents: epoch seconds."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from bloom.base.fields import StorableText
from bloom.base.text import make_storable
from bloom.membridge.model import canonical_id_of

OUTPUT_CHARS = 64 * 1024
LONGEST_POLL_SEC = 60
LONGEST_LEASE_SECONDS = 30 * 24 * 3600


def _part_of_path(name: str) -> str:
    # The name is a part of paths: such an agent could neither be addressed nor removed.
    if "/" in name or name in (".", ".."):
        raise PydanticCustomError("agent_name", "Must not contain a slash, and not be . or ..")
    return name


def _not_blank(name: str) -> str:
    if not name.strip():
        raise PydanticCustomError("blank", "Must not be blank")
    return name


def _hex(length: int) -> AfterValidator:
    digits = re.compile(f"[0-9a-f]{{{length}}}")

    def check(text: str) -> str:
        if not digits.fullmatch(text):
            raise PydanticCustomError("hex_digits", "Must be {length} lower-case hex digits", {"length": length})
        return text

    return AfterValidator(check)


def _http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        extras = (parts.query, parts.fragment, parts.username, parts.password)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not any(extras)
    except ValueError:
        is_good = False
    if not is_good or not url.isprintable():
        raise PydanticCustomError("membridge_url", "Must be a URL such as http://host.example:8001")
    return url.rstrip("/")


def _without_nul(text: str) -> str:
    # A program may write what it likes; that is no reason to lose the report of its end.
    return make_storable(text)[0]


Name = Annotated[StorableText, Field(min_length=1, max_length=128)]
AgentName = Annotated[Name, AfterValidator(_part_of_path)]
ShortText = Annotated[StorableText, Field(max_length=1024)]
HttpUrl = Annotated[StorableText, Field(max_length=1024), AfterValidator(_http_url)]
CanonicalId = Annotated[str, _hex(16), Field(json_schema_extra={"pattern": "^[0-9a-f]{16}$"})]
Sha256 = Annotated[str, _hex(64), Field(json_schema_extra={"pattern": "^[0-9a-f]{64}$"})]
Count = Annotated[StrictInt, Field(ge=0, le=2**62)]
Epoch = Annotated[StrictInt, Field(ge=0, le=2**62)]


class Request(BaseModel):
    """Base of what is received: unknown fields are ignored, as existing clients expect."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class NewProject(Request):
    """POST /projects."""

    name: Annotated[Name, AfterValidator(_not_blank)]


class ProjectFields(BaseModel):
    """A project. Times are epoch seconds. `source`: who made it, a person or a node's heartbeat."""

    name: str
    canonical_id: str
    created_at: int
    last_seen: int | None
    nodes_count: int
    source: Literal["manual", "heartbeat"]


class AgentCapabilities(Request):
    """What an agent can do. What an update leaves out is kept."""

    claude_cli: StrictBool = True
    max_concurrency: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    labels: Annotated[list[Annotated[StorableText, Field(min_length=1, max_length=128)]], Field(max_length=64)] = []


AgentStatus = Literal["online", "offline", "syncing", "error", "unknown"]


class RegisterAgent(Request):
    """POST /agents: insert or update by name."""

    name: AgentName
    url: HttpUrl | None = None
    status: AgentStatus = "online"
    capabilities: AgentCapabilities = AgentCapabilities()


class AgentFields(BaseModel):
    """An agent. Times are epoch seconds. `status` is `offline` when it was not heard from for 60 seconds."""

    name: str
    url: str | None
    status: AgentStatus
    capabilities: AgentCapabilities
    registered_at: int
    last_seen: int


class NodeHeartbeat(Request):
    """POST /agent/heartbeat. What it leaves out is kept. `asks`: the node would lead, or go on leading.

    `last_seen` is taken from old clients and not believed: clocks of small boards are wrong. `project_id`: the name of the
    project, to which `canonical_id` belongs; a blank one is left out.
    """

    node_id: Name
    canonical_id: CanonicalId
    obs_count: Count | None = None
    db_sha: ShortText | None = None
    last_seen: Annotated[StrictFloat, Field(ge=0, le=1e15, allow_inf_nan=False)] | None = None
    ip_addrs: Annotated[list[Annotated[StorableText, Field(max_length=255)]], Field(max_length=64)] = []
    project_id: ShortText | None = None
    agent_version: ShortText | None = None
    asks: StrictBool = True

    @field_validator("project_id")
    @classmethod
    def _named_by_its_id(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is None or not name.strip():
            return None
        canonical_id = info.data.get("canonical_id")
        if canonical_id is not None and canonical_id_of(name) != canonical_id:
            text = "Must be the name of which canonical_id is the first 16 hex digits of the SHA-256"
            raise PydanticCustomError("project_id", text)
        return name


class HeartbeatAnswer(BaseModel):
    """What the node is now. `epoch` and `lease_expires_at` (epoch milliseconds) are those of the present or last lease."""

    ok: bool
    role: Literal["unknown", "primary", "secondary"]
    canonical_id: str
    epoch: int | None = None
    lease_expires_at: int | None = None
    primary_node_id: str | None = None
    lease_remaining_ms: int | None = None


class NodeFields(BaseModel):
    """A node of a project."""

    node_id: str
    canonical_id: str
    role: Literal["unknown", "primary", "secondary"]
    obs_count: int | None
    db_sha: str | None
    last_seen: int
    ip_addrs: list[str]
    registered_at: int
    project_id: str | None
    agent_version: str | None
    online: bool


class LeaseFields(BaseModel):
    """The lease as it stands in the bucket's `lease.json` (contract, 2.3)."""

    canonical_id: str
    primary_node_id: str
    issued_at: int
    expires_at: int
    lease_seconds: int
    epoch: int
    policy: Literal["primary_authoritative"]
    issued_by: str


class LeadershipFields(BaseModel):
    """Who leads. `lease` is the present one, or the one that ended last (`expires_at` tells); null before the first."""

    canonical_id: str
    preferred_primary: str | None
    node_count: int
    nodes: list[NodeFields]
    lease: LeaseFields | None


class SelectPrimary(Request):
    """POST /projects/{cid}/leadership/select. `lease_seconds`: 3600 when it is left out or null."""

    primary_node_id: Name
    lease_seconds: Annotated[StrictInt, Field(ge=1, le=LONGEST_LEASE_SECONDS)] | None = None


class SelectAnswer(BaseModel):
    """What was selected."""

    ok: bool
    canonical_id: str
    primary_node_id: str
    lease_seconds: int
    detail: str
    epoch: int


class NewVersion(Request):
    """POST /projects/{cid}/versions. `based_on`: the version the pusher last synced with, null for none.

    `key`: `projects/<cid>/sqlite/versions/<epoch>-<sha256>/claude-mem.db`.
    """

    node_id: Name
    epoch: Epoch
    sha256: Sha256
    key: Annotated[StorableText, Field(min_length=1, max_length=1024)]
    db_size: Count
    counts: Annotated[dict[Annotated[StorableText, Field(max_length=128)], Count], Field(max_length=64)] = {}
    based_on: Sha256 | None = None
    force: StrictBool = False


class RestoreVersion(Request):
    """POST /projects/{cid}/versions/{sha256}/restore."""

    node_id: Name
    epoch: Epoch


class VersionFields(BaseModel):
    """A pushed snapshot. One version of a project is `current`."""

    sha256: str
    epoch: int
    key: str
    db_size: int
    counts: dict[str, int]
    node_id: str
    based_on: str | None
    created_at_ms: int
    current: bool


class SyncRequest(Request):
    """POST /sync/push and /sync/pull. `project` is its name as it is listed."""

    project: Name
    agent: AgentName
    dryrun: StrictBool = False


class SyncAnswer(BaseModel):
    """The job that was made. `ok` is false when the agent was called and said that it failed."""

    ok: bool
    project: str
    agent: str
    canonical_id: str
    detail: str
    job_id: str


class AwaitCommands(Request):
    """POST /agents/{name}/commands: the agent's long poll. It is held for 45 seconds at most, also where more is asked for."""

    wait_sec: Annotated[StrictFloat, Field(ge=0, le=LONGEST_POLL_SEC, allow_inf_nan=False)] = 0


class Command(BaseModel):
    """A job as the agent gets it, once. `deadline_ms`: when it times out, unless it is reported to be running."""

    id: str
    action: Literal["push", "pull"]
    project: str
    canonical_id: str
    dryrun: bool
    deadline_ms: int


class Commands(BaseModel):
    """What the agent is to do now; empty when nothing came up in time."""

    jobs: list[Command]


Output = Annotated[str, Field(max_length=16 * 1024 * 1024), AfterValidator(_without_nul)]


class ReportJob(Request):
    """POST /agents/{name}/jobs/{id}/report. Output is cut to its last 64 KiB."""

    status: Literal["running", "done", "failed"]
    detail: Output | None = None
    stdout: Output | None = None
    stderr: Output | None = None
    returncode: Annotated[StrictInt, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    progress: Annotated[StrictFloat, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class JobFields(BaseModel):
    """A sync job."""

    id: str
    action: Literal["push", "pull"]
    project: str
    agent: str
    canonical_id: str
    status: Literal["queued", "running", "done", "failed", "timed_out"]
    detail: str | None
    stdout: str | None
    stderr: str | None
    returncode: int | None
    dryrun: bool
    created_at: int
    finished_at: int | None
    request_id: str | None
    progress: float | None
    deadline_ms: int


class MembridgeAuditFields(BaseModel):
    """One line of who did what."""

    id: str
    timestamp: int
    action: str
    entity_type: str
    entity_id: str
    actor: str
    detail: dict[str, object]
