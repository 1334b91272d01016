"""Finished work whose lease was no longer its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bloom.base.ids import ResultId, TaskId
from bloom.db.pool import Connection, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import RejectedResult
from bloom.tasks.store.completions import Completion

_SQL = load_queries("bloom.tasks.store", "rejected.sql")

MOST_OF_A_TASK = 20
"""So many rejected results of one task are kept, the newest."""


@dataclass(frozen=True, slots=True)
class LateReport:
    """A report that was not taken, and its output or (`output_cut`) the beginning of it."""

    completion: Completion
    output: str | None
    output_cut: bool


async def keep_many(connection: Connection, late: Sequence[LateReport], *, cut: int, now: datetime | None) -> None:
    """Keep reports of leases that have ended without a result, each with up to `cut` characters of its output."""
    items = [
        {
            "task_id": report.completion.task_id,
            "lease_id": report.completion.lease_id,
            "worker_id": report.completion.worker_id,
            "status": "success" if report.completion.success else "error",
            "output": None if report.output is None else report.output[:cut],
            "output_cut": report.output_cut or (report.output is not None and len(report.output) > cut),
            "error_message": report.completion.error_message,
            "code": report.completion.code,
            "metrics": report.completion.metrics,
            "result_id": report.completion.result_id,
        }
        for report in late
    ]
    await connection.execute(_SQL["keep_many"], {"items": as_json(items), "now": now, "most": MOST_OF_A_TASK})


async def by_id(connection: Connection, task_id: TaskId, result_id: ResultId) -> RejectedResult | None:
    """One rejected result of a task, whole."""
    row = await fetch_one(connection, _SQL["by_id"], {"task_id": task_id, "id": result_id})
    return None if row is None else RejectedResult(**row)


async def by_task(connection: Connection, task_id: TaskId, *, cut: int) -> list[RejectedResult]:
    """The rejected results of one task, oldest first, outputs cut to `cut` characters."""
    rows = await fetch_all(connection, _SQL["by_task"], {"task_id": task_id, "cut": cut})
    return [RejectedResult(**row) for row in rows]
