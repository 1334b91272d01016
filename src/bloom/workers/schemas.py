"""The wire of workers. Times are epoch milliseconds."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt
from pydantic_core import PydanticCustomError

from bloom.base.clock import to_ms, to_ms_or_none
from bloom.base.fields import StorableText
from bloom.workers.model import Worker

ShortText = Annotated[StorableText, Field(max_length=1024)]
Label = Annotated[StorableText, Field(min_length=1, max_length=128)]
Bytes = Annotated[StrictInt, Field(ge=0, le=2**62)]
# The bounds of a union are told by hand, else no document has them.
Load = Annotated[
    StrictFloat | StrictInt, Field(ge=0, le=1e6, allow_inf_nan=False, json_schema_extra={"minimum": 0, "maximum": 1e6})
]
Temperature = Annotated[
    StrictFloat | StrictInt,
    Field(ge=-300, le=1000, allow_inf_nan=False, json_schema_extra={"minimum": -300, "maximum": 1000}),
]


class Request(BaseModel):
    """Base of what is received: unknown fields are ignored, as existing clients expect."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class Capabilities(Request):
    """What a worker can do. What an update leaves out is kept."""

    claude_cli: StrictBool = True
    max_concurrency: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    labels: Annotated[list[Label], Field(max_length=64)] = []


def _name(name: str) -> str:
    # The name is a part of paths: such a worker could neither be addressed nor removed.
    if "/" in name or name in (".", ".."):
        raise PydanticCustomError("worker_name", "Must not contain a slash, and not be . or ..")
    return name


class RegisterWorker(Request):
    """POST /workers: insert or update by name."""

    name: Annotated[StorableText, Field(min_length=1, max_length=128), AfterValidator(_name)]
    url: ShortText | None = None
    status: Literal["online", "offline", "syncing", "error", "unknown"] = "online"
    capabilities: Capabilities = Capabilities()
    ip_addrs: Annotated[list[Annotated[StorableText, Field(max_length=255)]], Field(max_length=64)] | None = None
    agent_version: ShortText | None = None
    os_info: ShortText | None = None
    install_method: ShortText | None = None


class Board(Request):
    """How a worker's machine is doing; what it cannot measure is null.

    `load_1m`: running processes, averaged over a minute; 1 per core is fully busy. `free_disk_bytes`: where its worker
    directory is. `pressure`: why it takes nothing new, in words; empty while it does.
    """

    free_memory_bytes: Bytes | None = None
    total_memory_bytes: Bytes | None = None
    load_1m: Load | None = None
    cores: Annotated[StrictInt, Field(ge=1, le=100_000)] | None = None
    temperature_c: Temperature | None = None
    free_disk_bytes: Bytes | None = None
    pressure: Annotated[list[Annotated[StorableText, Field(max_length=255)]], Field(max_length=8)] = []

    def in_words(self) -> list[str]:
        """What was measured, for a person: "512 MB of 4.0 GB free", "load 0.75 on 4 cores", "51.5 °C", "disk 12 GB free"."""
        words: list[str] = []
        if self.free_memory_bytes is not None:
            of_total = "" if self.total_memory_bytes is None else f" of {_size(self.total_memory_bytes)}"
            words.append(f"{_size(self.free_memory_bytes)}{of_total} free")
        if self.load_1m is not None:
            cores = "" if self.cores is None else f" on {self.cores} core{'' if self.cores == 1 else 's'}"
            words.append(f"load {self.load_1m:.2f}{cores}")
        if self.temperature_c is not None:
            words.append(f"{self.temperature_c:.1f} °C")
        if self.free_disk_bytes is not None:
            words.append(f"disk {_size(self.free_disk_bytes)} free")
        return words


def _size(count: int) -> str:
    megabytes = count / 1024**2
    if megabytes < 1000:
        return f"{megabytes:.0f} MB"
    gigabytes = megabytes / 1024
    return f"{gigabytes:.1f} GB" if gigabytes < 10 else f"{gigabytes:.0f} GB"


class CapabilitiesOut(BaseModel):
    claude_cli: bool
    max_concurrency: int
    labels: list[str]


class WorkerNode(BaseModel):
    """A worker as clients read it; `id` is its name, `active_leases` is counted live, `board` is what it last told."""

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
    board: Board | None = None


class RemovedWorker(BaseModel):
    """A worker that was removed."""

    removed: bool
    id: str


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
        "board": worker.board,
    }
