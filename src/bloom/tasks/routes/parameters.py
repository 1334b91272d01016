"""What the routes of tasks share: ids in the path (one that cannot exist is a 404), and the measure of batches."""

from typing import Annotated

from fastapi import Depends

from bloom.base.ids import ResultId, TaskId
from bloom.tasks.service.refusals import result_not_found, task_not_found
from bloom.web.parameters import can_be_id


async def _task_id(task_id: str) -> TaskId:
    if not can_be_id(task_id):
        raise task_not_found("(unreadable)")
    return TaskId(task_id)


async def _result_id(result_id: str) -> ResultId:
    if not can_be_id(result_id):
        raise result_not_found("(unreadable)")
    return ResultId(result_id)


PathTaskId = Annotated[TaskId, Depends(_task_id)]
"""The task of the path."""

PathResultId = Annotated[ResultId, Depends(_result_id)]
"""The result of the path."""

ITEMS_AT_ONCE = 256
"""How many items of one request wait at a time: a batch does not fill the places of everybody else (`bloom.db.batcher`)."""
