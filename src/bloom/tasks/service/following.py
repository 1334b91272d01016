"""Following one task live: its events and its changes of state, to the end."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from bloom.base.ids import TaskId
from bloom.db.hub import Hub, task_topic
from bloom.tasks.model import FINAL, Event, Result, Task
from bloom.tasks.service.tasks import TaskService

PAGE = 500
LOOK_AGAIN_SEC = 5.0
"""A notification can be lost; a follower then looks by itself."""

GATHER_SEC = 0.25
"""A busy run says something ten times a second; who reads along gets it in four pieces."""


@dataclass(frozen=True, slots=True)
class End:
    """The task is final; `result` is its last one."""

    task: Task
    result: Result | None


class FollowService:
    """Subscribes readers to tasks."""

    def __init__(self, tasks: TaskService, hub: Hub) -> None:
        self._tasks = tasks
        self._hub = hub

    async def follow(self, task_id: TaskId, *, after: int) -> AsyncGenerator[Task | Event | End, None]:
        """The task as it is, its events after the event `after`, each change of its state, and its End. The caller has
        checked that the task exists; a task that is removed meanwhile ends by NotFound.
        """
        shown: tuple[str, str | None, bool] | None = None
        with self._hub.subscribe(task_topic(task_id)) as news:
            while True:
                # The state is read before the events: when it is final, no event comes after those read next.
                task = await self._tasks.get(task_id)
                state = (task.status, task.lease_id, task.cancel_requested_at is not None)
                if state != shown and task.status not in FINAL:
                    shown = state
                    yield task
                while events := await self._tasks.events(task_id, after=after, limit=PAGE):
                    for event in events:
                        after = event.id
                        yield event
                    if len(events) < PAGE:
                        break
                if task.status in FINAL:
                    results = await self._tasks.results(task_id)
                    yield End(task, results[-1] if results else None)
                    return
                await news.wait(LOOK_AGAIN_SEC)

    async def read_along(self, task_id: TaskId, *, after: int) -> AsyncGenerator[Sequence[Event], None]:
        """What happens in the runs of a task after the event `after`, a few times a second and never to an end: a task that is
        over may be requeued. Raises NotFound once the task is removed.
        """
        with self._hub.subscribe(task_topic(task_id)) as news:
            while True:
                found = await self._tasks.events(task_id, after=after, limit=PAGE)
                if found:
                    after = found[-1].id
                    yield found
                if len(found) < PAGE and await news.wait(LOOK_AGAIN_SEC):
                    await asyncio.sleep(GATHER_SEC)
