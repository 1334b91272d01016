"""Counts of tasks and leases that cost the same however many there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bloom.db.pool import Connection, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import TaskStatus

_SQL = load_queries("bloom.tasks.store", "counts.sql")

FOLD_BATCH = 20_000
_LOCK = 0x626C6F6F6D_01


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks in each state, and leases of any state. An active lease is that of a held task."""

    by_status: Mapping[TaskStatus, int]
    leases: int


async def total(connection: Connection) -> Counts:
    """The counts as of this moment."""
    row = await fetch_one(connection, _SQL["total"], {}) or {}
    return Counts({status: row.get(status.value) or 0 for status in TaskStatus}, row.get("leases") or 0)


async def tidy(connection: Connection, *, now: datetime | None) -> None:
    """Fold what was appended. Once a day, and first after an upgrade, count the tables themselves: a process of an older
    release, or a hand in the database, changes them without a word. Does nothing while another process is at it.
    """
    locked = await fetch_one(connection, _SQL["lock"], {"key": _LOCK})
    if not (locked and locked["locked"]):
        return
    counted = await fetch_one(connection, _SQL["counted_recently"], {"now": now})
    if not (counted and counted["recently"]):
        await connection.execute(_SQL["count_anew"], {"now": now})
    elif counted["rows"] > 1:
        await connection.execute(_SQL["fold"], {"limit": FOLD_BATCH})
