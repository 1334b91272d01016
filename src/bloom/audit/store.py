"""Typed calls of the audit log's SQL."""

from dataclasses import asdict
from typing import Any

from bloom.audit.model import AuditEntry, AuditFilter, Position
from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.audit")


async def page(connection: Connection, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditEntry]:
    """Up to `limit` of the wanted entries with an id below `before`, newest first."""
    params: dict[str, Any] = {**asdict(wanted), "before": before, "limit": limit}
    # Never prepared: a plan for any values could use no index.
    cursor = await connection.execute(_SQL["page"], params, prepare=False)
    return [AuditEntry(**row) for row in await cursor.fetchall()]


async def of_entity(connection: Connection, entity_type: str, entity_id: str, *, limit: int) -> list[AuditEntry]:
    """The newest entries on one thing, newest first."""
    params = {"entity_type": entity_type, "entity_id": entity_id, "limit": limit}
    return [AuditEntry(**row) for row in await fetch_all(connection, _SQL["of_entity"], params)]


async def in_commit_order(connection: Connection, *, after: Position, limit: int) -> list[tuple[Position, AuditEntry]]:
    """Up to `limit` entries behind `after`, with their positions. Nothing will ever come between them."""
    rows = await fetch_all(connection, _SQL["in_commit_order"], {"tx": str(after.tx), "id": after.id, "limit": limit})
    return [(Position(int(row.pop("transaction")), row["id"]), AuditEntry(**row)) for row in rows]


async def horizon(connection: Connection) -> tuple[int, int]:
    """The oldest transaction under way and the next one that will begin."""
    row = await fetch_one(connection, _SQL["horizon"], {})
    return (int(row["oldest"]), int(row["next"])) if row else (0, 0)
