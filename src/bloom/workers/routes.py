"""HTTP of workers. Those that touch leases too are in `bloom.tasks.routes.workers`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from bloom.base.ids import WorkerId
from bloom.web.answers import JsonAnswer
from bloom.web.bodies import StrictRoute
from bloom.web.openapi import OTHER_PROTOCOL, repeated
from bloom.web.parameters import Caller, can_be_id
from bloom.web.roles import require_own_name
from bloom.workers.schemas import RegisterWorker, WorkerNode, worker_fields
from bloom.workers.service import WorkerService, worker_not_found


async def _worker_id(worker_id: str) -> WorkerId:
    if not can_be_id(worker_id):
        raise worker_not_found("(unreadable)")
    return WorkerId(worker_id)


PathWorkerId = Annotated[WorkerId, Depends(_worker_id)]
"""The worker of the path; one that cannot exist is a 404."""


def worker_routes(workers: WorkerService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(route_class=StrictRoute, tags=["workers"])

    @router.get("/workers", response_model=list[WorkerNode])
    async def list_workers() -> Response:
        """Every worker, its active leases counted live."""
        return JsonAnswer([worker_fields(worker) for worker in await workers.all()])

    @router.post(
        "/workers",
        status_code=201,
        response_model=WorkerNode,
        responses={**repeated(WorkerNode, "There was one of this name"), **OTHER_PROTOCOL},
    )
    async def register(body: RegisterWorker, caller: Caller) -> Response:
        """Register or update a worker by its name: 201 new, 200 existing. What an update leaves out is kept."""
        require_own_name(caller, body.name)
        worker, inserted = await workers.register(body, actor=caller.name)
        return JsonAnswer(worker_fields(worker), status_code=201 if inserted else 200)

    @router.post("/workers/{worker_id}/drain", response_model=WorkerNode)
    async def drain(worker_id: PathWorkerId, caller: Caller) -> Response:
        """Give the worker nothing new; what runs there runs on."""
        return JsonAnswer(worker_fields(await workers.drain(worker_id, actor=caller.name)))

    @router.post("/workers/{worker_id}/resume", response_model=WorkerNode)
    async def resume(worker_id: PathWorkerId, caller: Caller) -> Response:
        """End a drain."""
        return JsonAnswer(worker_fields(await workers.resume(worker_id, actor=caller.name)))

    return router
