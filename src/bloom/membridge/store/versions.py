"""Typed calls of the SQL of versions."""

import json
from datetime import datetime

from psycopg.rows import DictRow

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.membridge.model import Version
from bloom.membridge.schemas import NewVersion

_SQL = load_queries("bloom.membridge.store", "versions.sql")


def _version(row: DictRow) -> Version:
    return Version(**{name: value for name, value in row.items() if name != "seq"})


async def page(connection: Connection, canonical_id: str, *, limit: int) -> list[Version]:
    """The newest `limit` versions of a project."""
    rows = await fetch_all(connection, _SQL["page"], {"canonical_id": canonical_id, "limit": limit})
    return [_version(row) for row in rows]


async def by_sha(connection: Connection, canonical_id: str, sha256: str) -> Version | None:
    """One version."""
    row = await fetch_one(connection, _SQL["by_sha"], {"canonical_id": canonical_id, "sha256": sha256})
    return None if row is None else _version(row)


async def upsert(connection: Connection, canonical_id: str, pushed: NewVersion, *, now: datetime) -> None:
    """Store a pushed version, as the newest one. The project is locked."""
    params = pushed.model_dump(exclude={"force"}) | {
        "canonical_id": canonical_id,
        "counts": json.dumps(pushed.counts),
        "now": now,
    }
    await connection.execute(_SQL["upsert"], params)


async def set_current(connection: Connection, canonical_id: str, sha256: str) -> None:
    """Make a stored version the current one. The project is locked."""
    await connection.execute(_SQL["set_current"], {"canonical_id": canonical_id, "sha256": sha256})


async def delete(connection: Connection, canonical_id: str, sha256: str) -> bool:
    """Delete a version that is not the current one; False when it is, or there is none. The project is locked."""
    cursor = await connection.execute(_SQL["delete"], {"canonical_id": canonical_id, "sha256": sha256})
    return cursor.rowcount > 0
