"""Use cases of workers that touch no task."""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from bloom.audit.model import AuditAction
from bloom.base.errors import BloomError, NotFound
from bloom.base.ids import WorkerId
from bloom.db.hub import QUEUE, notify
from bloom.db.pool import RETRYABLE, Database
from bloom.workers import store
from bloom.workers.model import ListedWorker, Worker
from bloom.workers.schemas import RegisterWorker

NOTED_FOR_SEC = 1.0
"""A worker that spoke again within this is not noted again: it would cost each call of a busy worker a transaction more."""

_log = logging.getLogger(__name__)


def worker_not_found(worker_id: str) -> NotFound:
    """The error for a worker that is not registered."""
    return NotFound(f"There is no worker named {worker_id!r}.", code="worker_not_found")


class SignsOfLife:
    """Notes that workers spoke for leases of theirs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: dict[WorkerId, float] = {}

    async def note(self, ids: Iterable[WorkerId]) -> None:
        """Note it of these workers, each at most once in NOTED_FOR_SEC, in a transaction of its own: workers are locked before
        tasks, never after. What they said is committed already and is answered whatever happens here.
        """
        now = time.monotonic()
        self._noted = {worker_id: at for worker_id, at in self._noted.items() if now - at < NOTED_FOR_SEC}
        heard = set(ids) - self._noted.keys()
        if not heard:
            return
        try:
            async with self._database.transaction() as connection:
                await store.heard_from_many(connection, heard, claims=False, now=self._database.now)
        except (BloomError, *RETRYABLE) as error:
            _log.warning("signs of life were not noted", extra={"reason": type(error).__name__})
        else:
            self._noted.update(dict.fromkeys(heard, now))


class WorkerService:
    """Registering, listing, draining."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Worker]:
        """Every worker, by name."""
        async with self._database.transaction() as connection:
            return await store.all_workers(connection)

    async def count_by_state(self) -> list[dict[str, Any]]:
        """`{status, draining, workers, slots}` of each state that there is."""
        async with self._database.transaction() as connection:
            return await store.count_by_state(connection)

    async def register(self, request: RegisterWorker, *, actor: str) -> tuple[Worker, bool]:
        """Insert or update a worker by its name. Returns it, and whether it is new."""
        worker_id = WorkerId(request.name)
        async with self._database.transaction() as connection:
            inserted = await store.upsert(connection, request, actor=actor, now=self._database.now)
            await notify(connection, [QUEUE])
            return (await store.by_ids(connection, [worker_id]))[worker_id], inserted

    async def listed(self, listed: Sequence[ListedWorker]) -> None:
        """Take over what Membridge's list says: workers that only it knows appear and change with it; for those that
        registered here it is a sign of life and nothing else.
        """
        async with self._database.transaction() as connection:
            await store.lock(connection, [worker.id for worker in listed])
            if await store.list_many(connection, listed, now=None):
                await notify(connection, [QUEUE])

    async def drain(self, worker_id: WorkerId, *, actor: str) -> Worker:
        """Give the worker nothing new; what runs there runs on. Raises NotFound."""
        return await self._set_draining(worker_id, True, AuditAction.WORKER_DRAINED, actor)

    async def resume(self, worker_id: WorkerId, *, actor: str) -> Worker:
        """End a drain. Raises NotFound."""
        return await self._set_draining(worker_id, False, AuditAction.WORKER_RESUMED, actor)

    async def _set_draining(self, worker_id: WorkerId, draining: bool, action: AuditAction, actor: str) -> Worker:
        async with self._database.transaction() as connection:
            if not await store.set_draining(
                connection, worker_id, draining=draining, action=action, actor=actor, now=self._database.now
            ):
                raise worker_not_found(worker_id)
            await notify(connection, [QUEUE])
            return (await store.by_ids(connection, [worker_id]))[worker_id]
