"""Events of runs."""

from collections.abc import Sequence
from datetime import datetime

from bloom.base.clock import from_ms
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.db.pool import Connection, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import Event
from bloom.tasks.schemas import NewEvent

_SQL = load_queries("bloom.tasks.store", "events.sql")


async def last_seq(connection: Connection, lease_id: LeaseId) -> int | None:
    """The last stored `seq` of a lease, None when it has no event."""
    row = await fetch_one(connection, _SQL["last_event_seq"], {"lease_id": lease_id})
    return row["seq"] if row else None


async def append_many(
    connection: Connection,
    task_id: TaskId,
    lease_id: LeaseId,
    events: Sequence[NewEvent],
    *,
    worker_id: WorkerId | None,
    now: datetime | None,
) -> None:
    """Append `events` (in the order of their `seq`) to a locked task, if this is its current lease and `worker_id`, where it is
    given, holds it.
    """
    items = as_json(
        [
            {
                "seq": event.seq,
                "type": event.type,
                "data": event.data,
                "at": None if event.at is None else from_ms(event.at).isoformat(),
            }
            for event in events
        ]
    )
    params = {"items": items, "task_id": task_id, "lease_id": lease_id, "worker_id": worker_id, "now": now}
    await connection.execute(_SQL["append_events"], params)


async def events_after(connection: Connection, task_id: TaskId, *, after: int, limit: int) -> list[Event]:
    """Up to `limit` events of a task after the event `after`, in order."""
    params = {"task_id": task_id, "after": after, "limit": limit}
    return [Event(**row) for row in await fetch_all(connection, _SQL["events_after"], params)]


async def newest_events(connection: Connection, task_id: TaskId, *, chars: int, limit: int) -> list[Event]:
    """The newest events of a task, in order: at most `limit`, and once `chars` characters of JSON are reached no more."""
    params = {"task_id": task_id, "chars": chars, "limit": limit}
    return [Event(**row) for row in await fetch_all(connection, _SQL["newest_events"], params)]
