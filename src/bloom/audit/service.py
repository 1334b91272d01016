"""Reading the audit log, and following it."""

import asyncio
from collections.abc import AsyncGenerator

from bloom.audit import store
from bloom.audit.model import AuditEntry, AuditFilter, Position
from bloom.base.errors import InvalidInput
from bloom.db.hub import EVERYTHING, Hub
from bloom.db.pool import Database

EVERY_ENTRY = AuditFilter()
PAGE = 500
LOOK_AGAIN_SEC = 1.0
"""Not every change is announced, and one that waits for an older transaction becomes visible without a word."""

GATHER_SEC = 0.1
"""News come by the hundred in a second; a follower looks ten times."""


class AuditService:
    """Use cases of the audit log."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub

    async def page(
        self, wanted: AuditFilter = EVERY_ENTRY, *, before: int | None = None, limit: int
    ) -> list[AuditEntry]:
        """Up to `limit` of the wanted entries, older than the entry `before`, newest first."""
        async with self._database.transaction() as connection:
            return await store.page(connection, wanted, before=before, limit=limit)

    async def last_id(self) -> int:
        """The id of the newest entry, 0 for none: another one after each change."""
        async with self._database.transaction() as connection:
            found = await store.page(connection, EVERY_ENTRY, before=None, limit=1)
        return found[0].id if found else 0

    async def position(self, after: Position | None) -> Position:
        """Where a follower begins: `after`, or now. Raises InvalidInput for a position that this database has not reached."""
        async with self._database.transaction() as connection:
            oldest, upcoming = await store.horizon(connection)
        if after is None:
            return Position(oldest, 0)
        if after.tx > upcoming:
            text = "Must be the id of an event of this stream"
            raise InvalidInput(text, fields={"Last-Event-ID": [text]})
        return after

    async def follow(self, after: Position) -> AsyncGenerator[tuple[Position, AuditEntry], None]:
        """Each entry behind `after`, once, with the position to go on from: in the order of transactions, and only once every
        older transaction has ended. So none is lost that commits late, and any process goes on where another one was.
        """
        with self._hub.subscribe(EVERYTHING) as news:
            while True:
                async with self._database.transaction() as connection:
                    found = await store.in_commit_order(connection, after=after, limit=PAGE)
                for position, entry in found:
                    after = position
                    yield position, entry
                if len(found) < PAGE and await news.wait(LOOK_AGAIN_SEC):
                    await asyncio.sleep(GATHER_SEC)
