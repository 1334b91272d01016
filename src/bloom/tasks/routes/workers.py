"""Routes by which tasks are worked on: the compatible ones (lease, heartbeat, complete) and the worker plane."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from bloom.artifacts.schemas import artifact_fields
from bloom.base.errors import BloomError, Unavailable, Upstream
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.tasks.model import TaskStatus
from bloom.tasks.routes.fields import lease_fields, result_fields, task_fields
from bloom.tasks.routes.parameters import ITEMS_AT_ONCE, PathTaskId
from bloom.tasks.schemas import (
    AppendAnswer,
    AppendEvents,
    Claim,
    ClaimAnswer,
    CompleteBatch,
    CompleteBatchAnswer,
    CompletedAnswer,
    CompleteTask,
    Completion,
    Extend,
    ExtendAnswer,
    Heartbeat,
    HeartbeatAnswer,
    LeaseAnswer,
    LeaseTask,
    WorkerWithLeases,
)
from bloom.tasks.service.completing import Completed, CompletionService
from bloom.tasks.service.granting import ClaimRequest, GrantService, LeaseRequest
from bloom.tasks.service.holding import EventsCall, HoldingService
from bloom.tasks.service.removal import WorkerRemovalService
from bloom.web.answers import JsonAnswer
from bloom.web.auth import Principal
from bloom.web.direct import DirectRoute
from bloom.web.disconnect import stopping_of, unless_gone
from bloom.web.openapi import OTHER_PROTOCOL, conflict
from bloom.web.parameters import Caller
from bloom.web.roles import require_own_name
from bloom.web.validation import describe_problems
from bloom.workers.routes import PathWorkerId
from bloom.workers.schemas import RemovedWorker, worker_fields

LAST_WAIT_SEC = 1.0
"""How long a claim waits that comes to a server which is stopping: its worker then asks again, likely another one."""


def work_routes(
    granting: GrantService, holding: HoldingService, completing: CompletionService, removal: WorkerRemovalService
) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(route_class=DirectRoute, tags=["work"])

    @router.post(
        "/llm-tasks/{task_id}/lease",
        status_code=201,
        response_model=LeaseAnswer,
        responses=conflict("`not_queued`, `not_due` before its time, or `busy` while a task with its key runs"),
    )
    async def lease(task_id: PathTaskId, caller: Caller, body: LeaseTask | None = None) -> Response:
        """Lease one task to the named worker, or to the one the router chooses."""
        wanted = body or LeaseTask()
        worker_id = caller.worker_id if wanted.worker_id is None else WorkerId(wanted.worker_id)
        require_own_name(caller, worker_id)
        request = LeaseRequest(task_id, worker_id, wanted.ttl_seconds, caller.name)
        # What is queued is for any worker; what is not may be another's.
        async with holding.hidden_from_strangers(task_id, caller.worker_id, only=("task_not_found", "not_queued")):
            granted = await granting.lease(request)
        worker = None if granted.worker is None else worker_fields(granted.worker)
        return JsonAnswer({"lease": lease_fields(granted.lease), "worker": worker}, status_code=201)

    @router.post(
        "/llm-tasks/{task_id}/heartbeat",
        response_model=HeartbeatAnswer,
        responses=conflict("`lease_lost` or `cancelled`: stop the run"),
    )
    async def heartbeat(task_id: PathTaskId, caller: Caller, body: Heartbeat | None = None) -> Response:
        """Renew the lease; 409 `lease_lost` or `cancelled` mean: stop."""
        lease_id = None if body is None or body.lease_id is None else LeaseId(body.lease_id)
        async with holding.hidden_from_strangers(task_id, caller.worker_id):
            fields = lease_fields(await holding.heartbeat(task_id, lease_id, worker_id=caller.worker_id))
        return JsonAnswer({"lease": fields, "expires_at": fields["expires_at"]})

    @router.post(
        "/llm-tasks/{task_id}/complete",
        response_model=CompletedAnswer,
        responses={
            **conflict("The lease was lost, or ended with another report"),
            502: {"description": "The object store does not answer"},
        },
    )
    async def complete(task_id: PathTaskId, caller: Caller, body: CompleteTask) -> Response:
        """End the lease with a report. Repeating the same report for the same lease answers with the first outcome."""
        lease_id = None if body.lease_id is None else LeaseId(body.lease_id)
        async with holding.hidden_from_strangers(task_id, caller.worker_id):
            completed = await completing.complete(task_id, lease_id, body, worker_id=caller.worker_id, key=caller.name)
        return JsonAnswer(_completed_fields(completed))

    @router.post(
        "/llm-tasks/{task_id}/events",
        response_model=AppendAnswer,
        responses=conflict("The lease was lost, or `seq` leaves a gap"),
    )
    async def append_events(task_id: PathTaskId, caller: Caller, body: AppendEvents) -> Response:
        """Store events of a run, in order; those stored before are skipped."""
        call = EventsCall(task_id, LeaseId(body.lease_id), body.events, caller.worker_id)
        async with holding.hidden_from_strangers(task_id, caller.worker_id):
            appended = await holding.append_events(call)
        return JsonAnswer({"accepted": appended.accepted, "next_seq": appended.next_seq, "cancel": appended.cancel})

    @router.get("/workers/{worker_id}", response_model=WorkerWithLeases)
    async def get_worker(worker_id: PathWorkerId) -> Response:
        """A worker with its active leases."""
        worker, held = await removal.worker_with_leases(worker_id)
        return JsonAnswer({**worker_fields(worker), "leases": [lease_fields(lease) for lease in held]})

    @router.delete("/workers/{worker_id}", response_model=RemovedWorker)
    async def remove_worker(worker_id: PathWorkerId, caller: Caller) -> Response:
        """Remove a worker; its active leases end and their tasks go back to the queue."""
        await removal.remove(worker_id, actor=caller.name)
        return JsonAnswer({"removed": True, "id": worker_id})

    @router.post("/workers/{worker_id}/claim", response_model=ClaimAnswer, responses=OTHER_PROTOCOL)
    async def claim(request: Request, worker_id: PathWorkerId, caller: Caller, body: Claim) -> Response:
        """The worker's long poll: up to `slots` leases, after up to `wait_sec` seconds."""
        wanted = ClaimRequest(
            worker_id, body.request_id, body.slots, body.ttl_seconds, body.wait_sec, caller.name, body.board
        )
        stopping = stopping_of(request.scope)
        last_wait_sec = min(body.wait_sec, LAST_WAIT_SEC) if stopping.begun else 0
        granted = None if stopping.begun else await unless_gone(request, granting.claim(wanted))
        if granted is None and stopping.begun:
            # The worker takes any answer for the whole one: by the same id it also gets what was granted unseen.
            granted = await granting.claim(replace(wanted, wait_sec=last_wait_sec))
        leases = [{"lease": lease_fields(item.lease), "task": task_fields(item.task)} for item in granted or ()]
        return JsonAnswer({"leases": leases})

    @router.post("/workers/{worker_id}/extend", response_model=ExtendAnswer, responses=OTHER_PROTOCOL)
    async def extend(worker_id: PathWorkerId, body: Extend) -> Response:
        """Renew leases: `held`, `cancel` or `lost` for each."""
        held = [LeaseId(lease.lease_id) for lease in body.leases]
        extended = await holding.extend(worker_id, held, board=body.board)
        outcomes = [
            {
                "lease_id": item.lease_id,
                "outcome": item.outcome,
                "expires_at": None if item.lease is None else lease_fields(item.lease)["expires_at"],
            }
            for item in extended
        ]
        return JsonAnswer({"leases": outcomes})

    @router.post("/workers/{worker_id}/complete", response_model=CompleteBatchAnswer, responses=OTHER_PROTOCOL)
    async def complete_batch(worker_id: PathWorkerId, caller: Caller, body: CompleteBatch) -> Response:
        """End leases of one worker; one outcome per item, in order."""
        outcomes: list[dict[str, Any]] = []
        for start in range(0, len(body.completions), ITEMS_AT_ONCE):
            some = body.completions[start : start + ITEMS_AT_ONCE]
            outcomes += await _complete_some(worker_id, caller, some)
        return JsonAnswer({"completions": outcomes})

    async def _complete_some(worker_id: WorkerId, caller: Principal, items: Sequence[Any]) -> list[dict[str, Any]]:
        read = [_read(item) for item in items]
        reports = [
            (TaskId(item.task_id), LeaseId(item.lease_id), item) for item in read if isinstance(item, Completion)
        ]
        try:
            statuses = iter(await completing.report_many(reports, worker_id=worker_id, key=caller.name))
        except Unavailable as error:
            statuses = iter([error] * len(reports))
        return [
            await _item_answer(item, next(statuses), caller) if isinstance(item, Completion) else item for item in read
        ]

    async def _item_answer(report: Completion, outcome: TaskStatus | BloomError, caller: Principal) -> dict[str, Any]:
        ids = {"task_id": report.task_id, "lease_id": report.lease_id}
        try:
            async with holding.hidden_from_strangers(TaskId(report.task_id), caller.worker_id):
                if isinstance(outcome, BloomError):
                    raise outcome
        except (Unavailable, Upstream) as error:
            # Whatever its code: a worker must know it for one that passes, or it gives the report up.
            return {**ids, "outcome": Unavailable.code, "error": error.message}
        except BloomError as error:
            return {**ids, "outcome": error.code, "error": error.message}
        return {**ids, "outcome": "ok", "task_status": outcome}

    return router


def _completed_fields(completed: Completed) -> dict[str, Any]:
    return {
        "task": task_fields(completed.task),
        "artifact": None if completed.artifact is None else artifact_fields(completed.artifact),
        "result": None if completed.result is None else result_fields(completed.result),
    }


def _read(item: Any) -> Completion | dict[str, Any]:
    try:
        return Completion.model_validate(item)
    except ValidationError as error:
        named: dict[str, Any] = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        ids = {name: str(named.get(name, "")) for name in ("task_id", "lease_id")}
        return {**ids, "outcome": "invalid", "error": describe_problems(error.errors())}
