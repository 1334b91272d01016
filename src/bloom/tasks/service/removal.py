"""Looking at a worker with its leases, and taking a worker away."""

from bloom.base.ids import WorkerId
from bloom.db.hub import QUEUE, notify, task_topic
from bloom.db.pool import Database
from bloom.tasks.model import Held, Lease
from bloom.tasks.store import leases
from bloom.workers import store as workers
from bloom.workers.model import Worker
from bloom.workers.service import worker_not_found

PROMPT_CHARS = 200
"""Of the prompts of what runs at a worker."""


class WorkerRemovalService:
    """What concerns a worker and the tasks it holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def worker_with_leases(self, worker_id: WorkerId) -> tuple[Worker, list[Lease]]:
        """A worker and its active leases, oldest first. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await workers.by_ids(connection, [worker_id])
            if worker_id not in found:
                raise worker_not_found(worker_id)
            return found[worker_id], await leases.leases_of_worker(connection, worker_id)

    async def worker_with_work(self, worker_id: WorkerId) -> tuple[Worker, list[Held]]:
        """A worker and what runs there, oldest first, prompts cut. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await workers.by_ids(connection, [worker_id])
            if worker_id not in found:
                raise worker_not_found(worker_id)
            return found[worker_id], await leases.held_by_worker(connection, worker_id, cut=PROMPT_CHARS)

    async def remove(self, worker_id: WorkerId, *, actor: str) -> None:
        """Delete a worker: its active leases end, their tasks go back to the queue and lose no attempt. Raises NotFound."""
        async with self._database.transaction() as connection:
            if not await workers.lock(connection, [worker_id]):
                raise worker_not_found(worker_id)
            await leases.lock_tasks_of_worker(connection, worker_id)
            freed = await leases.remove_worker(connection, worker_id, actor=actor, now=self._database.now)
            await notify(connection, [*([QUEUE] if freed else []), *(task_topic(task_id) for task_id in freed)])
