"""Brings the workers that Membridge knows into the runtime, every few seconds, by one replica at a time."""

import logging
import time

from bloom.base.errors import Upstream
from bloom.db.pool import Database
from bloom.upstream import store
from bloom.upstream.agents import read_agents
from bloom.upstream.client import MembridgeClient
from bloom.upstream.model import UNREADABLE, KeySource, Target
from bloom.upstream.service import ConnectionService
from bloom.workers.model import ListedWorker
from bloom.workers.service import WorkerService

SYNC_EVERY_SEC = 9.0
"""So that a worker appears within 10 seconds (wire contract), the time of the call included."""

_SOONEST_SEC = 0.5
_NO_LIST = "Membridge answered GET /agents with something that is no list of agents"

_log = logging.getLogger(__name__)


class WorkerSync:
    """The sync of one replica."""

    def __init__(
        self, database: Database, client: MembridgeClient, connections: ConnectionService, workers: WorkerService
    ) -> None:
        self._database = database
        self._client = client
        self._connections = connections
        self._workers = workers
        self._skipped = 0

    async def step(self) -> float:
        """Sync, if it is due and no other replica has it, or else take over what that one found. Returns the seconds until
        the next one is due. That Membridge does not answer is no error here: it is noted in the health.
        """
        began = time.monotonic()
        target = await self._connections.target()
        if not target.configured:
            return SYNC_EVERY_SEC
        if target.key_source is KeySource.UNREADABLE:  # here; another replica may be able to
            self._connections.health.failed(target.revision, UNREADABLE)
            return SYNC_EVERY_SEC
        async with self._database.transaction() as connection:
            claimed, wait_sec = await store.claim_sync(connection, every_sec=SYNC_EVERY_SEC, now=None)
            saved = await store.read(connection)
        if claimed:
            await self._sync(target)
        else:
            self._connections.health.adopt(saved)
        return max(wait_sec - (time.monotonic() - began), _SOONEST_SEC)

    async def _sync(self, target: Target) -> None:
        health = self._connections.health
        try:
            listed = await self._ask(target)
        except Upstream as error:
            self._connections.note(target, error)
        else:
            await self._workers.listed(listed)
            health.succeeded(target.revision)
        async with self._database.transaction() as connection:
            await store.note_sync(
                connection,
                target.revision,
                failures=health.failures,
                last_success=health.last_success,
                last_error=health.last_error,
            )

    async def _ask(self, target: Target) -> list[ListedWorker]:
        answer = await self._client.call(target, "GET", "/agents")
        if answer.failure is not None:
            raise Upstream(answer.failure)
        now = time.time() if answer.server_time is None else answer.server_time
        found = read_agents(answer.value, now=now) if answer.is_success else None
        if found is None:
            raise Upstream(_NO_LIST)
        listed, skipped = found
        if skipped and not self._skipped:
            _log.warning("entries of Membridge's list of agents are of no use", extra={"skipped": skipped})
        self._skipped = skipped
        return listed
