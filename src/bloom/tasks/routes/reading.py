"""Routes of those who look: lists, results, events and counts."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from bloom.tasks.model import LeaseStatus, Result, TaskStatus
from bloom.tasks.routes.fields import event_fields, lease_fields, rejected_fields, result_fields, task_fields
from bloom.tasks.routes.parameters import PathResultId, PathTaskId
from bloom.tasks.schemas import EventOut, LeaseOut, LLMResult, LLMTask, StatsOut
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.tasks import TaskService
from bloom.web.answers import JsonAnswer
from bloom.web.bodies import StrictRoute
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, page_answer

RECENT_RUNS = 50


def reading_routes(tasks: TaskService, holding: HoldingService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(route_class=StrictRoute, tags=["tasks"])

    @router.get("/llm-tasks", response_model=list[LLMTask])
    async def list_tasks(
        request: Request, before: Before, status: TaskStatus | None = None, limit: PageLimit = DEFAULT_LIMIT
    ) -> Response:
        """Tasks, newest first."""
        found = await tasks.page(status=status, before=before, limit=limit + 1)
        shown = found[:limit]
        rows = [task_fields(task) for task in shown]
        return page_answer(request, rows, more=len(found) > limit, last=shown[-1].seq if shown else None)

    @router.get("/llm-tasks/{task_id}/results", response_model=list[LLMResult])
    async def results(task_id: PathTaskId) -> Response:
        """What the attempts of a task reported, oldest first; long outputs are cut. Also what came too late, as `rejected`."""
        found = [result_fields(result) for result in await tasks.results(task_id)]
        found += [rejected_fields(late) for late in await tasks.rejected_results(task_id)]
        return JsonAnswer(sorted(found, key=lambda fields: fields["completed_at"]))

    @router.get("/llm-tasks/{task_id}/results/{result_id}", response_model=LLMResult)
    async def result(task_id: PathTaskId, result_id: PathResultId) -> Response:
        """One result, with all that is kept of its output."""
        found = await tasks.result(task_id, result_id)
        return JsonAnswer(result_fields(found) if isinstance(found, Result) else rejected_fields(found))

    @router.get("/llm-tasks/{task_id}/events", response_model=list[EventOut])
    async def events(
        task_id: PathTaskId,
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: PageLimit = DEFAULT_LIMIT,
    ) -> Response:
        """Events of a task after the event `after`, in order."""
        found = await tasks.events(task_id, after=after, limit=limit)
        return JsonAnswer([event_fields(event) for event in found])

    @router.get("/runs", response_model=list[LLMTask])
    async def runs() -> Response:
        """The 50 most recent tasks."""
        found = await tasks.page(status=None, before=None, limit=RECENT_RUNS)
        return JsonAnswer([task_fields(task) for task in found])

    @router.get("/leases", response_model=list[LeaseOut])
    async def list_leases(
        request: Request, before: Before, status: LeaseStatus | None = None, limit: PageLimit = DEFAULT_LIMIT
    ) -> Response:
        """Leases, newest first."""
        found = await holding.page(status=status, before=before, limit=limit + 1)
        shown = found[:limit]
        rows = [lease_fields(lease) for lease in shown]
        return page_answer(request, rows, more=len(found) > limit, last=shown[-1].seq if shown else None)

    @router.get("/stats", response_model=StatsOut)
    async def stats() -> Response:
        """Counts of tasks, leases and workers."""
        return JsonAnswer(await tasks.stats())

    return router
