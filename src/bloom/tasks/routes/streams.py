"""Server-Sent Events of tasks."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from bloom.base.errors import InvalidInput
from bloom.base.ids import TaskId
from bloom.tasks.model import Event, Task
from bloom.tasks.routes.fields import event_fields, result_fields, task_fields
from bloom.tasks.routes.parameters import PathTaskId
from bloom.tasks.service.following import FollowService
from bloom.tasks.service.tasks import TaskService
from bloom.web.openapi import streamed
from bloom.web.sse import SseEvent, event_stream, last_event_id


def stream_routes(tasks: TaskService, following: FollowService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(tags=["streams"])

    @router.get(
        "/llm-tasks/{task_id}/stream",
        response_class=Response,
        responses=streamed(
            "text/event-stream", 'id: 7\nevent: run\ndata: {"seq":7,"type":"text","data":{"text":"Hello"}}\n\n'
        ),
    )
    async def stream(request: Request, task_id: PathTaskId) -> Response:
        """Follow a task: `event: run` for each event (its id is the cursor), `event: task` for each change of state,
        `event: end` with the task and its last result when it is final. Resumes after `Last-Event-ID`.
        """
        after = _cursor(last_event_id(request))
        await tasks.get(task_id)
        return event_stream(_events(following, task_id, after))

    return router


async def _events(following: FollowService, task_id: TaskId, after: int) -> AsyncGenerator[SseEvent, None]:
    async with aclosing(following.follow(task_id, after=after)) as steps:
        async for step in steps:
            match step:
                case Event():
                    yield SseEvent(event_fields(step), id=str(step.id), event="run")
                case Task():
                    yield SseEvent(task_fields(step), event="task")
                case _:
                    result = None if step.result is None else result_fields(step.result)
                    yield SseEvent({"task": task_fields(step.task), "result": result}, event="end")


def _cursor(value: str | None) -> int:
    if value is None:
        return 0
    if not value.isdecimal() or len(value) > 18:
        raise InvalidInput("Must be the id of an event of this stream", fields={"Last-Event-ID": ["Must be a number"]})
    return int(value)
