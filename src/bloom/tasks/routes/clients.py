"""Routes of those who submit tasks and look at them."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError
from starlette.responses import JSONResponse

from bloom.base.errors import BloomError
from bloom.base.fields import StorableText
from bloom.tasks.model import LeaseStatus, Result, TaskStatus
from bloom.tasks.routes.fields import event_fields, lease_fields, rejected_fields, result_fields, task_fields
from bloom.tasks.routes.parameters import ITEMS_AT_ONCE, PathResultId, PathTaskId
from bloom.tasks.schemas import (
    CreateBatch,
    CreateTask,
    EventOut,
    LeaseOut,
    LLMResult,
    LLMTask,
)
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.tasks import TaskService
from bloom.web.bodies import StrictRoute
from bloom.web.errors import status_of
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, Caller, page_answer
from bloom.web.validation import describe_problems

RECENT_RUNS = 50
IdempotencyKey = Annotated[StorableText | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


def client_routes(tasks: TaskService, holding: HoldingService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(route_class=StrictRoute, tags=["tasks"])

    @router.post("/llm-tasks", status_code=201, response_model=LLMTask)
    async def create(body: CreateTask, caller: Caller, idempotency_key: IdempotencyKey = None) -> Response:
        """Queue a task. 201, or 200 with the first task when its idempotency key was used before."""
        created = await tasks.create(body, actor=caller.name, idempotency_key=idempotency_key)
        return JSONResponse(task_fields(created.task), status_code=201 if created.new else 200)

    @router.get("/llm-tasks", response_model=list[LLMTask])
    async def list_tasks(
        request: Request, before: Before, status: TaskStatus | None = None, limit: PageLimit = DEFAULT_LIMIT
    ) -> Response:
        """Tasks, newest first."""
        found = await tasks.page(status=status, before=before, limit=limit + 1)
        shown = found[:limit]
        rows = [task_fields(task) for task in shown]
        return page_answer(request, rows, more=len(found) > limit, last=shown[-1].seq if shown else None)

    @router.post("/llm-tasks/batch")
    async def create_batch(body: CreateBatch, caller: Caller) -> Response:
        """Queue up to 1,000 tasks; one outcome per item, in order."""
        outcomes: list[dict[str, Any]] = []
        for start in range(0, len(body.tasks), ITEMS_AT_ONCE):
            some = body.tasks[start : start + ITEMS_AT_ONCE]
            outcomes += await asyncio.gather(*(_create_item(item, caller.name) for item in some))
        return JSONResponse({"results": outcomes})

    async def _create_item(item: Any, actor: str) -> dict[str, Any]:
        try:
            created = await tasks.create(CreateTask.model_validate(item), actor=actor)
        except ValidationError as error:
            return {"status": 400, "error": describe_problems(error.errors()), "code": "invalid"}
        except BloomError as error:
            return {"status": status_of(error), "error": error.message, "code": error.code}
        return {"status": 201 if created.new else 200, "task": task_fields(created.task)}

    @router.get("/llm-tasks/{task_id}", response_model=LLMTask)
    async def get_task(task_id: PathTaskId) -> Response:
        """One task, whole."""
        return JSONResponse(task_fields(await tasks.get(task_id)))

    @router.post("/llm-tasks/{task_id}/cancel", response_model=LLMTask)
    async def cancel(task_id: PathTaskId, caller: Caller) -> Response:
        """End a queued task at once; the worker that holds one is told at its next extend. 409 when final."""
        return JSONResponse(task_fields(await tasks.cancel(task_id, actor=caller.name)))

    @router.post("/llm-tasks/{task_id}/requeue", response_model=LLMTask)
    async def requeue(task_id: PathTaskId, caller: Caller) -> Response:
        """Put a failed, dead or cancelled task back into the queue, with all its attempts."""
        return JSONResponse(task_fields(await tasks.requeue(task_id, actor=caller.name)))

    @router.get("/llm-tasks/{task_id}/results", response_model=list[LLMResult])
    async def results(task_id: PathTaskId) -> Response:
        """What the attempts of a task reported, oldest first; long outputs are cut. Also what came too late, as `rejected`."""
        found = [result_fields(result) for result in await tasks.results(task_id)]
        found += [rejected_fields(late) for late in await tasks.rejected_results(task_id)]
        return JSONResponse(sorted(found, key=lambda fields: fields["completed_at"]))

    @router.get("/llm-tasks/{task_id}/results/{result_id}", response_model=LLMResult)
    async def result(task_id: PathTaskId, result_id: PathResultId) -> Response:
        """One result, with all that is kept of its output."""
        found = await tasks.result(task_id, result_id)
        return JSONResponse(result_fields(found) if isinstance(found, Result) else rejected_fields(found))

    @router.get("/llm-tasks/{task_id}/events", response_model=list[EventOut])
    async def events(
        task_id: PathTaskId,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: PageLimit = DEFAULT_LIMIT,
    ) -> Response:
        """Events of a task after the event `after`, in order."""
        found = await tasks.events(task_id, after=after, limit=limit)
        return JSONResponse([event_fields(event) for event in found])

    @router.get("/runs", response_model=list[LLMTask])
    async def runs() -> Response:
        """The 50 most recent tasks."""
        found = await tasks.page(status=None, before=None, limit=RECENT_RUNS)
        return JSONResponse([task_fields(task) for task in found])

    @router.get("/leases", response_model=list[LeaseOut])
    async def list_leases(
        request: Request, before: Before, status: LeaseStatus | None = None, limit: PageLimit = DEFAULT_LIMIT
    ) -> Response:
        """Leases, newest first."""
        found = await holding.page(status=status, before=before, limit=limit + 1)
        shown = found[:limit]
        rows = [lease_fields(lease) for lease in shown]
        return page_answer(request, rows, more=len(found) > limit, last=shown[-1].seq if shown else None)

    @router.get("/stats")
    async def stats() -> Response:
        """Counts of tasks, leases and workers."""
        return JSONResponse(await tasks.stats())

    return router
