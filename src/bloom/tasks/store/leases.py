"""Granting, prolonging and reaping leases."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import DictRow

from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.db.pool import Connection, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import Attempt, Held, Lease, LeaseStatus, Task, TaskStatus
from bloom.tasks.routing import Candidate
from bloom.tasks.store.tasks import task_from_row

_SQL = load_queries("bloom.tasks.store", "leases.sql")


@dataclass(frozen=True, slots=True)
class LabelGroup:
    """Workers of one batch with the same labels, and their free slots together."""

    labels: frozenset[str]
    slots: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a claimable task asks for: labels, and the worker that last ran its context, if any did."""

    labels: frozenset[str]
    last_worker_id: WorkerId | None


@dataclass(frozen=True, slots=True)
class Leasable:
    """What decides whether a task can be leased. `busy`: another task of its concurrency key goes first."""

    status: TaskStatus
    due: bool
    busy: bool
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease to be granted. `actor` asked for it; `key` names the key that it did so with, where `actor` does not."""

    task_id: TaskId
    lease_id: LeaseId
    worker_id: WorkerId
    ttl_seconds: int
    request_id: str | None
    actor: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class TaskState:
    """What fences a call that speaks for a task."""

    task_status: TaskStatus
    lease_id: LeaseId | None
    worker_id: WorkerId | None
    cancel_asked: bool


@dataclass(frozen=True, slots=True)
class Extended:
    """A lease that was prolonged."""

    lease: Lease
    cancel_asked: bool
    was_leased: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """A lease that was reaped, and where its task went."""

    task_id: TaskId
    worker_id: WorkerId
    started_at: datetime
    expires_at: datetime
    next_status: TaskStatus


def _lease(row: DictRow) -> Lease:
    return Lease(
        id=row["id"],
        seq=row["seq"],
        task_id=row["task_id"],
        worker_id=row["worker_id"],
        context_id=row["context_id"],
        status=LeaseStatus(row["status"]),
        started_at=row["started_at"],
        expires_at=row["expires_at"],
        ttl_seconds=row["ttl_seconds"],
        last_heartbeat=row["last_heartbeat"],
    )


async def promote_due(connection: Connection, *, now: datetime | None) -> int:
    """Make tasks whose `run_at` has come claimable; returns how many (at most 1,000)."""
    cursor = await connection.execute(_SQL["promote_due"], {"now": now})
    return cursor.rowcount


async def seconds_to_next_due(connection: Connection, *, now: datetime | None) -> float | None:
    """Seconds until the next task becomes due, None when none waits for its time."""
    row = await fetch_one(connection, _SQL["next_due"], {"now": now})
    return row["wait_sec"] if row else None


async def lock_candidates(
    connection: Connection,
    groups: Sequence[LabelGroup],
    *,
    workers: Sequence[WorkerId],
    seen: Iterable[TaskId],
    now: datetime | None,
) -> tuple[list[Candidate], bool]:
    """Lock and return the first claimable tasks for each group, without those in `seen`; `workers` take part in the claim.
    With them: whether others were locked, which come later in the queue.
    """
    items = [{"n": n, "labels": sorted(group.labels), "slots": group.slots} for n, group in enumerate(groups)]
    params = {"groups": as_json(items), "workers": list(workers), "seen": list(seen), "now": now}
    rows = await fetch_all(connection, _SQL["lock_candidates"], params)
    found: dict[TaskId, Candidate] = {}
    left = [group.slots for group in groups]
    for row in rows:
        left[row["group_n"]] -= 1
        if left[row["group_n"]] >= 0:
            found[row["id"]] = Candidate(
                task_id=row["id"],
                labels=row["labels"],
                last_worker_id=row["last_worker_id"],
                rank=(-row["priority"], row["seq"]),
                concurrency_key=row["concurrency_key"],
            )
    return list(found.values()), len(found) < len({row["id"] for row in rows})


async def wanted(connection: Connection) -> list[Wanted]:
    """What the tasks at the head of the queue ask for; nothing is locked."""
    rows = await fetch_all(connection, _SQL["wanted"], {})
    return [Wanted(frozenset(row["labels"]), row["last_worker_id"]) for row in rows]


async def any_fresh_claimable(connection: Connection, *, now: datetime | None) -> bool:
    """Whether a claimable task may still be waiting for the worker that last ran its context."""
    row = await fetch_one(connection, _SQL["any_fresh_claimable"], {"now": now})
    return bool(row and row["found"])


async def lock_tasks(connection: Connection, ids: Iterable[TaskId]) -> None:
    """Lock these tasks until the transaction ends, in id order."""
    await connection.execute(_SQL["lock_tasks"], {"ids": sorted(set(ids))})


async def lock_tasks_of_leases(connection: Connection, ids: Iterable[LeaseId]) -> None:
    """Lock the tasks of these leases until the transaction ends, in id order."""
    await connection.execute(_SQL["lock_tasks_of_leases"], {"lease_ids": sorted(set(ids))})


async def lock_tasks_of_worker(connection: Connection, worker_id: WorkerId) -> None:
    """Lock the tasks that this worker holds until the transaction ends, in id order."""
    await connection.execute(_SQL["lock_tasks_of_worker"], {"worker_id": worker_id})


async def leasable(connection: Connection, ids: Sequence[TaskId]) -> dict[TaskId, Leasable]:
    """What decides whether each of these tasks can be leased now."""
    rows = await fetch_all(connection, _SQL["leasable"], {"ids": list(ids)})
    return {
        row["id"]: Leasable(
            status=TaskStatus(row["status"]),
            due=row["due"],
            busy=row["busy"],
            candidate=Candidate(
                row["id"], row["labels"], row["last_worker_id"], concurrency_key=row["concurrency_key"]
            ),
        )
        for row in rows
    }


async def grant_many(
    connection: Connection, grants: Sequence[Grant], *, now: datetime | None
) -> dict[TaskId, tuple[Lease, Task, datetime]]:
    """Lease tasks to workers, with audit; for each also since when it could be claimed. A task that is not queued and due any
    more is left out.
    """
    items = as_json(
        [
            {
                "task_id": grant.task_id,
                "lease_id": grant.lease_id,
                "worker_id": grant.worker_id,
                "ttl_seconds": grant.ttl_seconds,
                "request_id": grant.request_id,
                "actor": grant.actor,
                "key": grant.key,
            }
            for grant in grants
        ]
    )
    granted: dict[TaskId, tuple[Lease, Task, datetime]] = {}
    for row in await fetch_all(connection, _SQL["grant_many"], {"items": items, "now": now}):
        lease = Lease(
            id=row["lease_id"],
            seq=row.pop("lease_seq"),
            task_id=row["id"],
            worker_id=row["worker_id"],
            context_id=row["context_id"],
            status=LeaseStatus.ACTIVE,
            started_at=row.pop("started_at"),
            expires_at=row.pop("expires_at"),
            ttl_seconds=row.pop("ttl_seconds"),
            last_heartbeat=None,
        )
        since = row.pop("since")
        granted[row["id"]] = (lease, task_from_row(row), since)
    return granted


async def task_states(connection: Connection, ids: Iterable[TaskId]) -> dict[TaskId, TaskState]:
    """The state of these tasks and who holds them."""
    return _states(await fetch_all(connection, _SQL["task_states"], {"ids": sorted(set(ids))}))


async def lock_states(connection: Connection, ids: Iterable[TaskId]) -> dict[TaskId, TaskState]:
    """Lock these tasks until the transaction ends, in id order; their state and who holds them."""
    return _states(await fetch_all(connection, _SQL["lock_states"], {"ids": sorted(set(ids))}))


def _states(rows: Iterable[DictRow]) -> dict[TaskId, TaskState]:
    return {
        row["task_id"]: TaskState(
            TaskStatus(row["task_status"]), row["current_lease_id"], row["worker_id"], row["cancel_asked"]
        )
        for row in rows
    }


async def extend_many(
    connection: Connection, leases: Iterable[tuple[LeaseId, WorkerId | None]], *, now: datetime | None
) -> dict[LeaseId, Extended]:
    """Prolong those of `leases` (with the worker that must hold each, None for any) that are current, active and not past
    their end. The rows of their tasks must be locked.
    """
    ordered = sorted(set(leases), key=lambda pair: (pair[0], pair[1] or ""))
    items = as_json([{"lease_id": lease_id, "worker_id": worker_id} for lease_id, worker_id in ordered])
    rows = await fetch_all(connection, _SQL["extend_many"], {"items": items, "now": now})
    return {
        row["id"]: Extended(_lease(row), row["cancel_asked"], row["task_status"] == TaskStatus.LEASED) for row in rows
    }


async def expire_many(connection: Connection, *, actor: str, limit: int, now: datetime | None) -> list[Expired]:
    """Reap up to `limit` leases that were not renewed in time."""
    rows = await fetch_all(connection, _SQL["lock_expired"], {"limit": limit, "now": now})
    if not rows:
        return []
    params = {"ids": [row["id"] for row in rows], "actor": actor, "now": now}
    expired = [
        Expired(row["task_id"], row["worker_id"], row["started_at"], row["expires_at"], TaskStatus(row["next_status"]))
        for row in await fetch_all(connection, _SQL["expire_many"], params)
    ]
    await pass_turns(connection, [lease.task_id for lease in expired if lease.next_status is not TaskStatus.QUEUED])
    return expired


async def pass_turns(connection: Connection, ended: Sequence[TaskId]) -> None:
    """Give the next task of each concurrency key of these its turn. Each statement that ends tasks is followed by this, under
    the locks of the tasks: it then sees every task that was created before them.
    """
    if ended:
        await connection.execute(_SQL["pass_turns"], {"ids": list(ended)})


async def pass_lost_turns(connection: Connection) -> int:
    """Give a task of each concurrency key that is not in use its turn, if none has it; returns how many."""
    cursor = await connection.execute(_SQL["pass_lost_turns"])
    return cursor.rowcount


async def remove_worker(
    connection: Connection, worker_id: WorkerId, *, actor: str, now: datetime | None
) -> list[TaskId]:
    """Delete a locked worker, end its leases and give back their (locked) tasks; returns those tasks."""
    params = {"worker_id": worker_id, "actor": actor, "now": now}
    freed = [row["task_id"] for row in await fetch_all(connection, _SQL["remove_worker"], params)]
    await pass_turns(connection, freed)
    return freed


async def leases_page(
    connection: Connection, *, status: LeaseStatus | None, before: int | None, limit: int
) -> list[Lease]:
    """Up to `limit` leases with a `seq` below `before`, newest first."""
    params = {"status": status, "before": before, "limit": limit}
    name = "leases_page" if status is None else "leases_page_by_status"
    return [_lease(row) for row in await fetch_all(connection, _SQL[name], params)]


async def leases_of_worker(connection: Connection, worker_id: WorkerId) -> list[Lease]:
    """The active leases of one worker, oldest first."""
    rows = await fetch_all(connection, _SQL["leases_of_worker"], {"worker_id": worker_id})
    return [_lease(row) for row in rows]


async def held_by_worker(connection: Connection, worker_id: WorkerId, *, cut: int) -> list[Held]:
    """The tasks that one worker holds, oldest lease first, prompts cut to `cut` characters."""
    rows = await fetch_all(connection, _SQL["held_by_worker"], {"worker_id": worker_id, "cut": cut})
    return [
        Held(_lease(row), row["agent_slug"], row["prompt"], TaskStatus(row["task_status"]), row["cancel_asked"])
        for row in rows
    ]


async def attempts(connection: Connection, task_id: TaskId) -> list[Attempt]:
    """The leases of one task, oldest first."""
    rows = await fetch_all(connection, _SQL["attempts"], {"task_id": task_id})
    for row in rows:
        row["status"] = LeaseStatus(row["status"])
    return [Attempt(**row) for row in rows]


async def has_held(connection: Connection, task_id: TaskId, worker_id: WorkerId) -> bool:
    """Whether the worker holds or held a lease of the task."""
    row = await fetch_one(connection, _SQL["has_held"], {"task_id": task_id, "worker_id": worker_id})
    return bool(row and row["found"])


async def leases_of_requests(
    connection: Connection, requests: Mapping[WorkerId, Sequence[str]]
) -> dict[tuple[WorkerId, str], list[Lease]]:
    """What claims with these request ids were answered before."""
    asked = {(worker_id, request_id) for worker_id, given in requests.items() for request_id in given}
    params = {"worker_ids": list(requests), "request_ids": sorted({request_id for _, request_id in asked})}
    found: dict[tuple[WorkerId, str], list[Lease]] = {}
    for row in await fetch_all(connection, _SQL["leases_of_request"], params):
        if (pair := (row["worker_id"], row["request_id"])) in asked:
            found.setdefault(pair, []).append(_lease(row))
    return found
