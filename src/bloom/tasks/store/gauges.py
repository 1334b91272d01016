"""What a look at the queue tells an operator."""

from collections.abc import Mapping
from datetime import datetime

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import QueueGauges, TaskStatus, Waiting

_SQL = load_queries("bloom.tasks.store", "gauges.sql")

SETS = 50
"""So many sets of labels are told apart."""

MOST = 10_000
"""So far is counted."""


async def read(connection: Connection, by_status: Mapping[TaskStatus, int], *, now: datetime | None) -> QueueGauges:
    """Look at the queue, which has as many tasks in each state as `by_status` says."""
    rows = await fetch_all(connection, _SQL["waiting"], {"sets": SETS, "most": MOST, "now": now})
    ages = await fetch_one(connection, _SQL["ages"], {"most": MOST, "now": now}) or {}
    waiting = [Waiting(row["labels"], row["tasks"], max(row["oldest_sec"] or 0, 0)) for row in rows[:SETS]]
    scheduled, without_turn = ages["scheduled"], ages["without_turn"]
    others = by_status[TaskStatus.QUEUED] - scheduled - without_turn - sum(found.tasks for found in waiting)
    return QueueGauges(
        by_status=by_status,
        waiting=waiting,
        others=max(others, 0) if len(rows) > SETS else 0,
        oldest_queued_sec=max(ages["queued_sec"] or 0, 0),
        oldest_held_sec=max(ages["held_sec"] or 0, 0),
        scheduled=scheduled,
        without_turn=without_turn,
        outputs_to_move=ages["outputs_to_move"],
    )
