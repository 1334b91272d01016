"""What the routes of tasks share: ids in the path (one that cannot exist is a 404), and the measure of batches."""

from typing import Annotated

from fastapi import Depends, Request

from bloom.base.ids import ResultId, TaskId
from bloom.base.logging import request_id
from bloom.tasks.model import Origin
from bloom.tasks.service.refusals import result_not_found, task_not_found
from bloom.telemetry.tracing import sane_traceparent
from bloom.web.asgi import header
from bloom.web.parameters import can_be_id


async def _task_id(task_id: str) -> TaskId:
    if not can_be_id(task_id):
        raise task_not_found("(unreadable)")
    return TaskId(task_id)


async def _result_id(result_id: str) -> ResultId:
    if not can_be_id(result_id):
        raise result_not_found("(unreadable)")
    return ResultId(result_id)


async def _origin(request: Request) -> Origin:
    given = header(request.scope, b"traceparent")
    return Origin(request_id.get(), sane_traceparent(None if given is None else given.decode("latin-1")))


PathTaskId = Annotated[TaskId, Depends(_task_id)]
"""The task of the path."""

PathResultId = Annotated[ResultId, Depends(_result_id)]
"""The result of the path."""

RequestOrigin = Annotated[Origin, Depends(_origin)]
"""The request's id, and its `traceparent` if it has one."""

ITEMS_AT_ONCE = 256
"""How many items of one request wait at a time: a batch does not fill the places of everybody else (`bloom.db.batcher`)."""
