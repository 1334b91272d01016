"""The wire of workers. Times are epoch milliseconds."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from bloom.base.clock import to_ms, to_ms_or_none
from bloom.base.fields import StorableText
from bloom.workers.model import Worker

ShortText = Annotated[StorableText, Field(max_length=1024)]
Label = Annotated[StorableText, Field(min_length=1, max_length=128)]


class Request(BaseModel):
    """Base of what is received: unknown fields are ignored, as existing clients expect."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class Capabilities(Request):
    """What a worker can do. What an update leaves out is kept."""

    claude_cli: StrictBool = True
    max_concurrency: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    labels: Annotated[list[Label], Field(max_length=64)] = []


class RegisterWorker(Request):
    """POST /workers: insert or update by name."""

    name: Annotated[StorableText, Field(min_length=1, max_length=128)]
    url: ShortText | None = None
    status: Literal["online", "offline", "syncing", "error", "unknown"] = "online"
    capabilities: Capabilities = Capabilities()
    ip_addrs: Annotated[list[Annotated[StorableText, Field(max_length=255)]], Field(max_length=64)] | None = None
    agent_version: ShortText | None = None
    os_info: ShortText | None = None
    install_method: ShortText | None = None


class CapabilitiesOut(BaseModel):
    claude_cli: bool
    max_concurrency: int
    labels: list[str]


class WorkerNode(BaseModel):
    """A worker as clients read it; `id` is its name, `active_leases` is counted live."""

    id: str
    node_id: str
    url: str | None
    status: Literal["online", "offline", "syncing", "error", "unknown"]
    capabilities: CapabilitiesOut
    last_heartbeat: int | None
    ip_addrs: list[str]
    obs_count: int | None
    db_sha: str | None
    registered_at: int
    active_leases: int
    agent_version: str | None
    os_info: str | None
    install_method: str | None
    draining: bool


def worker_fields(worker: Worker) -> dict[str, object]:
    """`worker` as the fields of a WorkerNode."""
    return {
        "id": worker.id,
        "node_id": worker.node_id or worker.id,
        "url": worker.url,
        "status": worker.status,
        "capabilities": {
            "claude_cli": worker.claude_cli,
            "max_concurrency": worker.max_concurrency,
            "labels": list(worker.labels),
        },
        "last_heartbeat": to_ms_or_none(worker.last_heartbeat),
        "ip_addrs": list(worker.ip_addrs),
        "obs_count": worker.obs_count,
        "db_sha": worker.db_sha,
        "registered_at": to_ms(worker.registered_at),
        "active_leases": worker.active_leases,
        "agent_version": worker.agent_version,
        "os_info": worker.os_info,
        "install_method": worker.install_method,
        "draining": worker.draining,
    }
