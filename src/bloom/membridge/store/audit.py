"""Typed calls of the SQL of Membridge's audit log."""

import json
from datetime import datetime
from typing import Any

from bloom.base.logging import request_id
from bloom.db.pool import Connection, fetch_all
from bloom.db.queries import load_queries
from bloom.membridge.model import MembridgeAction, MembridgeAuditEntry

_SQL = load_queries("bloom.membridge.store", "audit.sql")


async def add(
    connection: Connection,
    action: MembridgeAction,
    entity_type: str,
    entity_id: str,
    *,
    actor: str,
    now: datetime | None,
    **detail: Any,
) -> None:
    """Append one entry; the id of the HTTP request goes with it."""
    if (request := request_id.get()) is not None:
        detail["request_id"] = request
    params = {
        "action": action,
        "entity_type": entity_type,
        "entity_id": entity_id,
        "actor": actor,
        "detail": json.dumps(detail),
        "now": now,
    }
    await connection.execute(_SQL["add"], params)


async def page(
    connection: Connection, *, entity_id: str | None, before: int | None, limit: int
) -> list[MembridgeAuditEntry]:
    """Up to `limit` entries older than the entry `before`, newest first."""
    params = {"entity_id": entity_id, "before": before, "limit": limit}
    return [MembridgeAuditEntry(**row) for row in await fetch_all(connection, _SQL["page"], params)]
