"""Typed calls of the connection's SQL."""

from datetime import datetime

from psycopg.rows import DictRow

from bloom.db.pool import Connection, fetch_one
from bloom.db.queries import load_queries
from bloom.upstream.model import Saved

_SQL = load_queries("bloom.upstream")


def _saved(row: DictRow | None) -> Saved:
    assert row is not None, "the one row of membridge_connection is gone"  # noqa: S101
    return Saved(**row)


async def read(connection: Connection, *, lock: bool = False) -> Saved:
    """What is saved; with `lock` nobody else saves anything until the transaction ends."""
    return _saved(await fetch_one(connection, _SQL["lock" if lock else "read"], {}))


async def save(connection: Connection, *, url: str, admin_key: bytes | None, key_changed: bool, actor: str) -> Saved:
    """Store address and sealed key, forget what was known of the connection before, let the next sync be due now."""
    params = {"url": url, "admin_key": admin_key, "key_changed": key_changed, "actor": actor}
    return _saved(await fetch_one(connection, _SQL["save"], params))


async def tested(
    connection: Connection, *, connected: bool, error: str | None, actor: str, now: datetime | None
) -> None:
    """Note that the connection was tested."""
    params = {"connected": connected, "error": error, "actor": actor, "now": now}
    await connection.execute(_SQL["tested"], params)


async def claim_sync(connection: Connection, *, every_sec: float, now: datetime | None) -> tuple[bool, float]:
    """Whether the sync is due and the caller's to do, and the seconds until the next one is due."""
    row = await fetch_one(connection, _SQL["claim_sync"], {"every_sec": every_sec, "now": now})
    return (False, every_sec) if row is None else (bool(row["claimed"]), float(row["wait_sec"]))


async def note_sync(
    connection: Connection, revision: int, *, failures: int, last_success: datetime | None, last_error: str | None
) -> None:
    """Let the other replicas know what a sync of the connection `revision` found."""
    params = {"revision": revision, "failures": failures, "last_success": last_success, "last_error": last_error}
    await connection.execute(_SQL["note_sync"], params)


async def sync_ordered(connection: Connection, project: str, detail: str, *, actor: str) -> None:
    """Write the audit entry of a sync job that Membridge was asked for; `detail` is JSON."""
    await connection.execute(_SQL["sync_ordered"], {"id": project, "detail": detail, "actor": actor})


async def promoted(connection: Connection, canonical_id: str, detail: str, *, actor: str) -> None:
    """Write the audit entry of a change of leadership; `detail` is JSON."""
    await connection.execute(_SQL["promoted"], {"id": canonical_id, "detail": detail, "actor": actor})
