"""Reading the audit log."""

from bloom.audit import store
from bloom.audit.model import AuditEntry
from bloom.db.pool import Database


class AuditService:
    """Use cases of the audit log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, *, before: int | None, limit: int) -> list[AuditEntry]:
        """Up to `limit` entries older than the entry `before`, newest first."""
        async with self._database.transaction() as connection:
            return await store.page(connection, before=before, limit=limit)
