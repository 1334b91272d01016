"""The wire of tasks and leases: what clients and workers send, and what they read. Times are epoch milliseconds."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from bloom.artifacts.schemas import RuntimeArtifact
from bloom.base.fields import StorableJson, StorableText, storable
from bloom.tasks.model import LeaseStatus, TaskStatus
from bloom.workers.schemas import Board, WorkerNode

MAX_ATTEMPTS = 10
MAX_BATCH = 1000
MAX_TTL_SEC = 86_400
DEFAULT_TTL_SEC = 300

Name = Annotated[StorableText, Field(min_length=1, max_length=512)]
Label = Annotated[StorableText, Field(min_length=1, max_length=128)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, strict=True)]
Figure = Annotated[
    StrictInt | StrictFloat,
    Field(ge=0, le=1e15, allow_inf_nan=False, json_schema_extra={"minimum": 0, "maximum": 1e15}),
]
"""A number of something; a whole one stays whole. The bounds of a union are told by hand, else no document has them."""

EpochMs = Annotated[StrictInt, Field(ge=0, le=253_402_300_799_999)]
"""Up to the end of the year 9999."""


class Request(BaseModel):
    """Base of what is received: unknown fields are ignored, as existing clients expect."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


# --- create ---------------------------------------------------------------------------------------------------------


class Policy(Request):
    """`timeout_sec` bounds a run; `budget` in US dollars, 0 = none."""

    timeout_sec: Annotated[StrictInt, Field(ge=1, le=3600)] = 120
    budget: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, strict=True)] = 0


class Retry(Request):
    """Backoff between attempts: base_sec doubled each time up to max_sec, with jitter."""

    base_sec: Seconds = 2
    max_sec: Seconds = 300


class CreateTask(Request):
    """POST /llm-tasks."""

    context_id: Name
    agent_slug: Name
    prompt: Annotated[StorableText, Field(min_length=1)]
    context_hints: Annotated[list[StorableText], Field(max_length=1000)] = []
    policy: Policy = Field(default_factory=Policy)
    desired_format: Literal["json", "text"] = "text"
    max_attempts: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)] = 3
    priority: Annotated[StrictInt, Field(ge=-32_768, le=32_767)] = 0
    run_at: EpochMs | None = None
    idempotency_key: Annotated[StorableText, Field(min_length=1, max_length=255)] | None = None
    labels: Annotated[list[Label], Field(max_length=32)] = []
    concurrency_key: Annotated[StorableText, Field(min_length=1, max_length=255)] | None = None
    retry: Retry = Field(default_factory=Retry)


class CreateBatch(Request):
    """POST /llm-tasks/batch: each item is checked by itself, so a bad one fails alone."""

    tasks: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


# --- leases by the compatible routes ----------------------------------------------------------------------------------


class LeaseTask(Request):
    """POST /llm-tasks/{id}/lease."""

    worker_id: Name | None = None
    ttl_seconds: Annotated[StrictInt, Field(ge=1, le=MAX_TTL_SEC)] = DEFAULT_TTL_SEC


class Heartbeat(Request):
    """POST /llm-tasks/{id}/heartbeat. Without `lease_id` it speaks for the current lease."""

    lease_id: Name | None = None


class Metrics(BaseModel):
    """What a run took. Executors add their own figures (cost_usd, model, session_id ...), which are kept."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)
    __pydantic_extra__: dict[str, StorableJson] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    duration_ms: Figure
    tokens_used: Figure | None = None

    @model_validator(mode="after")
    def _names_can_be_stored(self) -> "Metrics":
        # What is declared for figures of their own holds for their values, not for their names.
        for name in self.__pydantic_extra__ or ():
            storable(name)
        return self


class ReportBody(Request):
    """The report that ends a lease.

    `retryable` puts the task back after a backoff (or `retry_after_sec`), `dead` at its last attempt. `code` is the stable
    code of an error. `hand_back` returns the task to the queue at once and takes back the attempt. `output_ref` names an
    output that was uploaded before, of this size in bytes and this SHA-256 (hex); it takes the place of `output`.
    """

    status: Literal["success", "error"]
    output: StorableText | None = None
    error_message: StorableText | None = None
    metrics: Metrics
    artifact_type: Annotated[StorableText, Field(min_length=1, max_length=128)] = "LLM_RESULT"
    artifact_tags: Annotated[list[Annotated[StorableText, Field(max_length=255)]], Field(max_length=100)] = []
    retryable: StrictBool = False
    retry_after_sec: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False, strict=True)] | None = None
    code: Annotated[StorableText, Field(min_length=1, max_length=64)] | None = None
    hand_back: StrictBool = False
    output_ref: Name | None = None
    output_size: Annotated[StrictInt, Field(ge=0, le=2**53)] | None = None
    output_sha256: Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        if self.output_ref is not None:
            if self.output is not None or self.status != "success":
                raise PydanticCustomError("output_ref", "output_ref takes the place of the output of a success")
            if self.output_size is None or self.output_sha256 is None:
                raise PydanticCustomError("output_ref", "output_ref comes with output_size and output_sha256")
        return self


class CompleteTask(ReportBody):
    """POST /llm-tasks/{id}/complete. Without `lease_id` it speaks for the current lease."""

    lease_id: Name | None = None


# --- the worker plane -------------------------------------------------------------------------------------------------


class Claim(Request):
    """POST /workers/{id}/claim. `ttl_seconds` is the length of the leases that are granted."""

    request_id: Name
    slots: Annotated[StrictInt, Field(ge=1, le=32)] = 1
    wait_sec: Annotated[float, Field(ge=0, le=60, allow_inf_nan=False, strict=True)] = 0
    ttl_seconds: Annotated[StrictInt, Field(ge=1, le=MAX_TTL_SEC)] = DEFAULT_TTL_SEC
    board: Board | None = None


class HeldLease(Request):
    """One lease that a worker wants to keep."""

    lease_id: Name


class Extend(Request):
    """POST /workers/{id}/extend. With no lease it is a sign of life."""

    leases: Annotated[list[HeldLease], Field(max_length=MAX_BATCH)]
    board: Board | None = None


class Completion(ReportBody):
    """One item of POST /workers/{id}/complete; here the lease is always named."""

    task_id: Name
    lease_id: Name


class CompleteBatch(Request):
    """POST /workers/{id}/complete: each item is checked by itself, so a bad one fails alone."""

    completions: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


class NewEvent(Request):
    """One event. `seq` counts the events of the lease without a gap from its first; `at` is the worker's own clock."""

    seq: Annotated[StrictInt, Field(ge=0, le=2**53)]
    type: Annotated[StorableText, Field(min_length=1, max_length=64)]
    data: dict[StorableText, StorableJson] = {}
    at: EpochMs | None = None


class AppendEvents(Request):
    """POST /llm-tasks/{id}/events."""

    lease_id: Name
    events: Annotated[list[NewEvent], Field(min_length=1, max_length=MAX_BATCH)]


# --- answers ----------------------------------------------------------------------------------------------------------


class PolicyOut(BaseModel):
    timeout_sec: int
    budget: float


class RetryOut(BaseModel):
    base_sec: float
    max_sec: float


class LLMTask(BaseModel):
    """A task as clients read it. `request_id` and `traceparent` are of the request that made it. `truncated` appears where a
    list cut a long prompt.
    """

    id: str
    context_id: str
    agent_slug: str
    prompt: str
    context_hints: list[str]
    policy: PolicyOut
    desired_format: Literal["json", "text"]
    status: TaskStatus
    created_at: int
    updated_at: int
    lease_id: str | None
    worker_id: str | None
    attempts: int
    max_attempts: int
    priority: int
    run_at: int | None
    labels: list[str]
    concurrency_key: str | None
    retry: RetryOut
    cancel_requested: bool
    request_id: str | None = None
    traceparent: str | None = None
    truncated: bool | None = None


class LeaseOut(BaseModel):
    """A lease as clients read it."""

    id: str
    task_id: str
    worker_id: str
    started_at: int
    expires_at: int
    ttl_seconds: int
    status: LeaseStatus
    last_heartbeat: int | None
    context_id: str


class LLMResult(BaseModel):
    """What one attempt reported. `rejected`: it had lost its lease by then, for the `reason` given, and nothing came of it."""

    id: str
    task_id: str
    worker_id: str
    lease_id: str
    artifact_id: str | None
    status: Literal["success", "error"]
    output: str | None
    error_message: str | None
    code: str | None
    metrics: dict[str, Any]
    completed_at: int
    truncated: bool | None = None
    rejected: bool | None = None
    reason: str | None = None


class EventOut(BaseModel):
    """One event as readers see it. `id` counts all events of the task; it is the cursor of `after` and of the stream."""

    id: int
    task_id: str
    lease_id: str
    seq: int
    at: int
    type: str
    data: dict[str, Any]


class CreateOutcome(BaseModel):
    """One item of a batch's answer: the status that it would have had alone, and its task or why there is none."""

    status: int
    task: LLMTask | None = None
    error: Any = None
    code: str | None = None


class CreateBatchAnswer(BaseModel):
    """One outcome for each task, in order."""

    results: list[CreateOutcome]


class LeaseAnswer(BaseModel):
    """A granted lease, and the worker that it is for."""

    lease: LeaseOut
    worker: WorkerNode | None


class HeartbeatAnswer(BaseModel):
    """The renewed lease, and when it ends."""

    lease: LeaseOut
    expires_at: int


class CompletedAnswer(BaseModel):
    """What a report made: only a success makes an artifact."""

    task: LLMTask
    artifact: RuntimeArtifact | None
    result: LLMResult | None


class WorkerWithLeases(WorkerNode):
    """A worker with the leases that it holds."""

    leases: list[LeaseOut]


class TaskCounts(BaseModel):
    total: int
    by_status: dict[str, int]


class LeaseCounts(BaseModel):
    total: int
    active: int


class WorkerCounts(BaseModel):
    total: int
    online: int


class StatsOut(BaseModel):
    """How many there are."""

    tasks: TaskCounts
    leases: LeaseCounts
    workers: WorkerCounts


class LeasedTask(BaseModel):
    """One item of a claim's answer."""

    lease: LeaseOut
    task: LLMTask


class ClaimAnswer(BaseModel):
    leases: list[LeasedTask]


class ExtendOutcome(BaseModel):
    """`held`: renewed; `cancel`: renewed, but stop the run and report; `lost`: stop the run, it is no longer yours."""

    lease_id: str
    outcome: Literal["held", "cancel", "lost"]
    expires_at: int | None


class ExtendAnswer(BaseModel):
    leases: list[ExtendOutcome]


class AppendAnswer(BaseModel):
    """`accepted` new events, the rest had been stored before; `cancel`: a person asked for the end of this task."""

    accepted: int
    next_seq: int
    cancel: bool


class UploadAnswer(BaseModel):
    """How many bytes of an output were `received`, and what a completion calls it; `cancel`: a person asked for the end."""

    output_ref: str | None
    received: int
    cancel: bool = False


class CompletionOutcome(BaseModel):
    """One item of the answer to POST /workers/{id}/complete. `outcome` is `ok` or the code of the refusal."""

    task_id: str
    lease_id: str
    outcome: str
    error: Any = None
    task_status: TaskStatus | None = None


class CompleteBatchAnswer(BaseModel):
    completions: list[CompletionOutcome]
