"""Writes leases to the bucket, for nodes that cannot reach the service (contract, 2.3).

Every replica does it: a row is claimed for a bounded time, written outside of any transaction, and looked at again. Writing
twice what is the same does no harm.
"""

import asyncio
import json
import logging
from datetime import datetime

from bloom.base.errors import BloomError
from bloom.blobs.interface import BlobStore
from bloom.db.pool import Database
from bloom.membridge.lease_file import audit_key, lease_fields, lease_key
from bloom.membridge.model import Lease
from bloom.membridge.store import leadership, projects

WRITE_WITHIN_SEC = 20.0
CLAIM_SEC = 30.0
"""Longer than writing may take, so that no two processes write one lease at the same time."""

RETRY_SEC = 15.0

_log = logging.getLogger(__name__)


class LeasePublisher:
    """Keeps `lease.json` of each project in step with the database, and a copy of each term beside it."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._failing = False

    async def publish_due(self, *, now: datetime | None = None) -> int:
        """Write what is due, and return how many leases that were. A store that fails is tried again in 15 seconds."""
        written = 0
        while await self._publish_one(now):
            written += 1
        return written

    async def _publish_one(self, now: datetime | None) -> bool:
        async with self._database.transaction() as connection:
            moment = await projects.clock(connection, now)
            project = await leadership.claim_publication(connection, claim_sec=CLAIM_SEC, now=moment)
            if project is None or project.lease is None:
                return False
            terms = await leadership.unpublished_terms(connection, project.canonical_id)
        retry_sec: float | None = None
        try:
            async with asyncio.timeout(WRITE_WITHIN_SEC):
                await self._write(project.canonical_id, project.lease, terms)
            self._failing = False
        except (BloomError, TimeoutError) as error:
            retry_sec, terms = RETRY_SEC, []
            if not self._failing:
                reason = error.code if isinstance(error, BloomError) else "timeout"
                _log.warning("a lease could not be written to the bucket; trying on", extra={"reason": reason})
            self._failing = True
        async with self._database.transaction() as connection:
            await leadership.end_publication(
                connection,
                project.canonical_id,
                project.lease,
                epochs=[term.epoch for term in terms],
                retry_sec=retry_sec,
                now=await projects.clock(connection, now),
            )
        return retry_sec is None

    async def _write(self, canonical_id: str, lease: Lease, terms: list[Lease]) -> None:
        await self._put(lease_key(canonical_id), canonical_id, lease)
        for term in terms:
            await self._put(audit_key(canonical_id, term), canonical_id, term)

    async def _put(self, key: str, canonical_id: str, lease: Lease) -> None:
        content = json.dumps(lease_fields(canonical_id, lease), indent=2).encode() + b"\n"
        await self._blobs.put(key, content, content_type="application/json")
