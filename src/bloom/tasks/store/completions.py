"""Ending tasks: completion, cancellation, requeue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from bloom.base.ids import ArtifactId, LeaseId, ResultId, TaskId, WorkerId
from bloom.db.pool import Connection, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import Result, TaskStatus
from bloom.tasks.store.leases import pass_turns

_SQL = load_queries("bloom.tasks.store", "completions.sql")

FREE_WORKER_DEATHS = 2
"""So often a task that is handed back with the code `worker_died` loses no attempt."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A report to be accepted. `lease_id` None speaks for the current lease; `worker_id`, if given, must hold it. `artifact`
    holds the columns of the artifact that a success becomes; with `names_upload` it was uploaded before. `digest` (hex) knows
    the repetition of the same report. `key` names the key that reported, for the audit log.
    """

    task_id: TaskId
    lease_id: LeaseId | None
    worker_id: WorkerId | None
    success: bool
    hand_back: bool
    retryable: bool
    retry_after_sec: float | None
    output: str | None
    output_cut: bool
    error_message: str | None
    code: str | None
    metrics: Mapping[str, Any]
    digest: str
    result_id: ResultId
    artifact_id: ArtifactId
    names_upload: bool
    artifact: Mapping[str, Any]
    key: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A report that was accepted, and where its task went; `runs_at`: when a queued one is due again. The lease lasted from
    `started_at` to `ended_at`.
    """

    lease_id: LeaseId
    worker_id: WorkerId
    next_status: TaskStatus
    runs_at: datetime | None
    artifact_id: ArtifactId | None
    started_at: datetime
    ended_at: datetime
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Reported:
    """What a lease ended with, and the digest (hex) of the report. `cancelled`: a person had asked for that end before."""

    result: Result
    digest: str
    cancelled: bool


async def complete_many(
    connection: Connection, completions: Mapping[int, Completion], *, now: datetime | None
) -> dict[int, Accepted]:
    """Accept the reports of current leases of (locked) tasks, by their number in `completions`; the first of several for
    one task is taken.
    """
    items = [
        {
            "n": n,
            "task_id": item.task_id,
            "lease_id": item.lease_id,
            "worker_id": item.worker_id,
            "success": item.success,
            "hand_back": item.hand_back,
            "retryable": item.retryable,
            "retry_after_sec": item.retry_after_sec,
            "output": item.output,
            "output_cut": item.output_cut,
            "error_message": item.error_message,
            "code": item.code,
            "metrics": item.metrics,
            "digest": item.digest,
            "result_id": item.result_id,
            "artifact_id": item.artifact_id,
            "key": item.key,
            **item.artifact,
        }
        for n, item in completions.items()
    ]
    params = {"items": as_json(items), "free_deaths": FREE_WORKER_DEATHS, "now": now}
    rows = await fetch_all(connection, _SQL["complete_many"], params)
    await pass_turns(connection, [row["task_id"] for row in rows if row["ends_turn"]])
    return {
        row["n"]: Accepted(
            lease_id=row["lease_id"],
            worker_id=row["worker_id"],
            next_status=TaskStatus(row["next_status"]),
            runs_at=row["runs_at"],
            artifact_id=row["artifact_id"] if row["next_status"] == TaskStatus.COMPLETED else None,
            started_at=row["started_at"],
            ended_at=row["ended_at"],
            traceparent=row["traceparent"],
        )
        for row in rows
    }


def _result(row: DictRow) -> Result:
    fields: dict[str, Any] = {**row, "truncated": bool(row["truncated"])}
    return Result(**fields)


async def results_by_leases(connection: Connection, lease_ids: Sequence[LeaseId]) -> dict[LeaseId, Reported]:
    """What these leases ended with."""
    rows = await fetch_all(connection, _SQL["results_by_leases"], {"lease_ids": list(lease_ids)})
    return {
        row["lease_id"]: Reported(digest=row.pop("digest"), cancelled=row.pop("cancelled"), result=_result(row))
        for row in rows
    }


async def results_by_task(connection: Connection, task_id: TaskId, *, cut: int) -> list[Result]:
    """The results of one task, oldest first, outputs cut to `cut` characters."""
    rows = await fetch_all(connection, _SQL["results_by_task"], {"task_id": task_id, "cut": cut})
    return [_result(row) for row in rows]


async def result(connection: Connection, task_id: TaskId, result_id: ResultId) -> Result | None:
    """One result of a task, whole."""
    row = await fetch_one(connection, _SQL["result_by_id"], {"task_id": task_id, "id": result_id})
    return None if row is None else _result(row)


async def cancel(connection: Connection, task_id: TaskId, *, actor: str, now: datetime | None) -> bool:
    """Cancel a locked task or mark it; False when this changes nothing."""
    params = {"id": task_id, "actor": actor, "now": now}
    changed = await fetch_one(connection, _SQL["cancel"], params) is not None
    await pass_turns(connection, [task_id] if changed else [])
    return changed


async def requeue(connection: Connection, task_id: TaskId, *, actor: str, now: datetime | None) -> bool:
    """Put a locked task back into the queue; False when its state does not allow it."""
    params = {"id": task_id, "actor": actor, "now": now}
    return await fetch_one(connection, _SQL["requeue"], params) is not None
