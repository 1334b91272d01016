"""Routes of those who submit tasks."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import ValidationError

from bloom.base.errors import BloomError, Unavailable
from bloom.base.fields import StorableText
from bloom.tasks.model import Origin
from bloom.tasks.routes.fields import task_fields
from bloom.tasks.routes.parameters import ITEMS_AT_ONCE, PathTaskId, RequestOrigin
from bloom.tasks.schemas import CreateBatch, CreateBatchAnswer, CreateTask, LLMTask
from bloom.tasks.service.tasks import Created, TaskService
from bloom.web.answers import JsonAnswer
from bloom.web.direct import DirectRoute
from bloom.web.errors import status_of
from bloom.web.openapi import conflict, repeated
from bloom.web.parameters import Caller
from bloom.web.validation import describe_problems

IdempotencyKey = Annotated[StorableText | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


def client_routes(tasks: TaskService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(route_class=DirectRoute, tags=["tasks"])

    @router.post(
        "/llm-tasks",
        status_code=201,
        response_model=LLMTask,
        responses={
            **repeated(LLMTask, "The first task of this idempotency key"),
            **conflict("The idempotency key was used with another body (`idempotency_conflict`)"),
        },
    )
    async def create(
        body: CreateTask, caller: Caller, origin: RequestOrigin, idempotency_key: IdempotencyKey = None
    ) -> Response:
        """Queue a task. 201, or 200 with the first task when its idempotency key was used before."""
        created = await tasks.create(body, actor=caller.name, idempotency_key=idempotency_key, origin=origin)
        return JsonAnswer(task_fields(created.task), status_code=201 if created.new else 200)

    @router.post("/llm-tasks/batch", response_model=CreateBatchAnswer)
    async def create_batch(body: CreateBatch, caller: Caller, origin: RequestOrigin) -> Response:
        """Queue up to 1,000 tasks; one outcome per item, in order."""
        outcomes: list[dict[str, Any]] = []
        for start in range(0, len(body.tasks), ITEMS_AT_ONCE):
            some = body.tasks[start : start + ITEMS_AT_ONCE]
            try:
                outcomes += await _create_some(some, caller.name, origin)
            except Unavailable as error:
                if not outcomes:
                    raise
                outcomes += [_item_answer(error)] * len(some)
        return JsonAnswer({"results": outcomes})

    async def _create_some(items: Sequence[Any], actor: str, origin: Origin) -> list[dict[str, Any]]:
        read = [_read(item) for item in items]
        wanted = [item for item in read if isinstance(item, CreateTask)]
        created = iter(await tasks.create_many(wanted, actor=actor, origin=origin))
        return [_item_answer(next(created)) if isinstance(item, CreateTask) else item for item in read]

    @router.get("/llm-tasks/{task_id}", response_model=LLMTask)
    async def get_task(task_id: PathTaskId) -> Response:
        """One task, whole."""
        return JsonAnswer(task_fields(await tasks.get(task_id)))

    @router.post("/llm-tasks/{task_id}/cancel", response_model=LLMTask, responses=conflict("The task is final"))
    async def cancel(task_id: PathTaskId, caller: Caller) -> Response:
        """End a queued task at once; the worker that holds one is told at its next extend. 409 when final."""
        return JsonAnswer(task_fields(await tasks.cancel(task_id, actor=caller.name)))

    @router.post(
        "/llm-tasks/{task_id}/requeue",
        response_model=LLMTask,
        responses=conflict("The task is neither failed, dead nor cancelled"),
    )
    async def requeue(task_id: PathTaskId, caller: Caller) -> Response:
        """Put a failed, dead or cancelled task back into the queue, with all its attempts."""
        return JsonAnswer(task_fields(await tasks.requeue(task_id, actor=caller.name)))

    return router


def _read(item: Any) -> CreateTask | dict[str, Any]:
    try:
        return CreateTask.model_validate(item)
    except ValidationError as error:
        return {"status": 400, "error": describe_problems(error.errors()), "code": "invalid"}


def _item_answer(outcome: Created | BloomError) -> dict[str, Any]:
    if isinstance(outcome, BloomError):
        return {"status": status_of(outcome), "error": outcome.message, "code": outcome.code}
    return {"status": 201 if outcome.new else 200, "task": task_fields(outcome.task)}
