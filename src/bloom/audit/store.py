"""Typed calls of the audit log's SQL."""

from bloom.audit.model import AuditEntry
from bloom.db.pool import Connection, fetch_all
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.audit")


async def page(connection: Connection, *, before: int | None, limit: int) -> list[AuditEntry]:
    """Up to `limit` entries with an id below `before`, newest first."""
    rows = await fetch_all(connection, _SQL["page"], {"before": before, "limit": limit})
    return [AuditEntry(**row) for row in rows]
