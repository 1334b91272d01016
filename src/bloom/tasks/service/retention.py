"""Retention: tasks that ended long ago are deleted with all that belongs to them; the audit log keeps what happened."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

from bloom.artifacts.service import ArtifactService
from bloom.db.pool import Database
from bloom.tasks.model import TaskStatus
from bloom.tasks.store import retention
from bloom.tasks.store.retention import BEGINNING, Amount

MOST_TASKS = 100
MOST_ROWS = 20_000
"""A transaction deletes no more than this, unless a single task has more. 100 plain tasks took 24 ms of 1,000,000."""


class RetentionService:
    """Deletes what is older than the limit, beside the traffic: in short transactions, with as much rest as work."""

    def __init__(self, database: Database, artifacts: ArtifactService) -> None:
        self._database = database
        self._artifacts = artifacts

    async def prune(
        self,
        days: int,
        *,
        actor: str,
        progress: Callable[[int], None] = lambda _: None,
    ) -> Mapping[TaskStatus, int]:
        """Delete the tasks that ended `days` days ago or earlier, then their outputs in the object store; how many there were
        of each state. `progress` is told how many there were so far. Any number of processes share the work.

        It can end at any moment: what is deleted is deleted whole, and what was to be deleted from the store is known.
        """
        pruned: Counter[TaskStatus] = Counter()
        after = BEGINNING
        loop, now = asyncio.get_running_loop(), self._database.now
        while True:
            began = loop.time()
            async with self._database.transaction() as connection:
                old = await retention.lock_old(connection, days=days, after=after, limit=MOST_TASKS, now=now)
                if not old:
                    break
                rows, batch = 0, [old[0]]
                for task in old[1:]:
                    rows += batch[-1].weight
                    if rows + task.weight > MOST_ROWS:
                        break
                    batch.append(task)
                ids = [task.id for task in batch]
                pruned += Counter(await retention.prune(connection, ids, days=days, actor=actor, now=now))
            after = batch[-1].position
            progress(pruned.total())
            await asyncio.sleep(loop.time() - began)
        await self._artifacts.delete_pruned()
        return pruned

    async def would_prune(self, days: int) -> Mapping[TaskStatus, Amount]:
        """What `prune` would delete, by state; changes nothing."""
        async with self._database.transaction() as connection:
            return await retention.would_prune(connection, days=days, now=self._database.now)
