"""Pruning tasks that ended long ago."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bloom.base.ids import TaskId
from bloom.db.pool import Connection, fetch_all
from bloom.db.queries import load_queries
from bloom.tasks.model import TaskStatus

_SQL = load_queries("bloom.tasks.store", "retention.sql")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order in which tasks ended: behind the task `id`, last changed at `at`."""

    at: datetime
    id: str


BEGINNING = Position(datetime.min.replace(tzinfo=UTC), "")


@dataclass(frozen=True, slots=True)
class OldTask:
    """A task to be pruned. `weight`: about how many rows go with it."""

    id: TaskId
    position: Position
    weight: int


@dataclass(frozen=True, slots=True)
class Amount:
    """What there is of tasks in one state; bytes are of prompts, events and outputs, as they were given."""

    tasks: int
    artifacts: int
    database_bytes: int
    store_bytes: int


async def lock_old(
    connection: Connection, *, days: int, after: Position, limit: int, now: datetime | None
) -> list[OldTask]:
    """Lock up to `limit` tasks that ended `days` days ago or earlier, the oldest first; those that others hold are left out."""
    params = {"days": days, "after_at": after.at, "after_id": after.id, "limit": limit, "now": now}
    rows = await fetch_all(connection, _SQL["lock_old"], params)
    return [OldTask(row["id"], Position(row["updated_at"], row["id"]), int(row["weight"])) for row in rows]


async def prune(
    connection: Connection, ids: Sequence[TaskId], *, days: int, actor: str, now: datetime | None
) -> dict[TaskStatus, int]:
    """Delete locked tasks with all that belongs to them; how many there were of each state. Writes an audit entry."""
    params = {"ids": list(ids), "days": days, "actor": actor, "now": now}
    return {TaskStatus(row["status"]): row["n"] for row in await fetch_all(connection, _SQL["prune"], params)}


async def would_prune(connection: Connection, *, days: int, now: datetime | None) -> Mapping[TaskStatus, Amount]:
    """What pruning would delete, by state."""
    rows = await fetch_all(connection, _SQL["would_prune"], {"days": days, "now": now})
    return {TaskStatus(row.pop("status")): Amount(**row) for row in rows}
