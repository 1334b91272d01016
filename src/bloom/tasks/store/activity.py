"""What happened in each minute."""

from dataclasses import dataclass
from datetime import datetime

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.tasks.store", "activity.sql")


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened from `minute` on for 60 seconds. `wait_sec` is the sum over `waits` first leases; cost in US dollars."""

    minute: datetime
    created: int
    started: int
    completed: int
    failed: int
    waits: int
    wait_sec: float
    tokens: int
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a span of time came to."""

    tokens: int
    cost_usd: float
    completed: int
    failed: int


async def fold(connection: Connection, *, limit: int) -> int:
    """Fold what was written to the audit log, up to `limit` entries; how many there were. 0 while another process does it."""
    row = await fetch_one(connection, _SQL["fold"], {"limit": limit})
    return row["entries"] if row else 0


async def forget(connection: Connection, *, now: datetime | None) -> None:
    """Delete the minutes of more than 400 days ago."""
    await connection.execute(_SQL["forget"], {"now": now})


async def since(connection: Connection, moment: datetime) -> list[Minute]:
    """The minutes since `moment` in which anything happened, oldest first."""
    return [Minute(**row) for row in await fetch_all(connection, _SQL["since"], {"since": moment})]


async def spent_since(connection: Connection, moment: datetime) -> Spent:
    """What was used and done since `moment`."""
    row = await fetch_one(connection, _SQL["spent_since"], {"since": moment})
    return Spent(**row) if row else Spent(0, 0.0, 0, 0)
