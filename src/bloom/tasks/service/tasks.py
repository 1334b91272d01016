"""Creating, reading, cancelling and requeueing tasks, and their events."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bloom.base.clock import from_ms
from bloom.base.errors import BloomError, Conflict
from bloom.base.ids import ResultId, TaskId, new_task_id
from bloom.db.batcher import Batcher
from bloom.db.hub import DUE, QUEUE, notify, task_topic
from bloom.db.pool import Connection, Database
from bloom.tasks.model import (
    FINAL,
    HELD,
    Attempt,
    Event,
    Origin,
    QueueGauges,
    RejectedResult,
    Result,
    Search,
    Task,
    TaskFilter,
    TaskStatus,
)
from bloom.tasks.schemas import CreateTask
from bloom.tasks.service.refusals import result_not_found, task_not_found
from bloom.tasks.store import completions, counts, events, gauges, leases, rejected, tasks
from bloom.tasks.store.tasks import NewTask
from bloom.telemetry.tracing import span
from bloom.workers import store as workers

LIST_CUT_CHARS = 64 * 1024
"""Longer texts are cut in lists (wire contract, "Artifacts")."""

UNKNOWN = Origin()

REACH = 20_000
"""So many tasks a search looks at before it asks whether to go on."""

SEARCH_CUT_CHARS = 300


@dataclass(frozen=True, slots=True)
class Created:
    """A task, and whether this call made it (else its idempotency key stood for it already)."""

    task: Task
    new: bool


class TaskService:
    """Use cases around tasks that no worker takes part in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._creations: Batcher[NewTask, Created] = Batcher("create", self._create_many)

    async def create(
        self, request: CreateTask, *, actor: str, idempotency_key: str | None = None, origin: Origin = UNKNOWN
    ) -> Created:
        """Queue a task. `idempotency_key` (of the header) stands in when the body has none; the same key again returns
        the same task, whatever its `origin` was.

        Raises Conflict (`idempotency_key_reused`) when the key stood for another body.
        """
        with span("task.create", origin.traceparent, {}) as traceparent:
            origin = Origin(origin.request_id, traceparent)
            new = _new_task(request, actor=actor, header_key=idempotency_key, origin=origin)
            return await self._creations.submit(new)

    async def create_many(
        self, requests: Sequence[CreateTask], *, actor: str, origin: Origin = UNKNOWN
    ) -> Sequence[Created | BloomError]:
        """Queue tasks in one transaction; what `create` would raise for one of them stands in its place.

        Raises Unavailable when none was taken.
        """
        if not requests:
            return []
        with span("task.create", origin.traceparent, {"bloom.tasks": len(requests)}) as traceparent:
            origin = Origin(origin.request_id, traceparent)
            items = [_new_task(request, actor=actor, header_key=None, origin=origin) for request in requests]
            return await self._creations.submit_many(items)

    async def _create_many(self, items: Sequence[NewTask]) -> Sequence[Created | BloomError]:
        first_of_key: dict[tuple[str, str], NewTask] = {}
        to_insert: list[NewTask] = []
        for item in items:
            key = (item.scope, item.idempotency_key) if item.idempotency_key is not None else None
            if key is None or first_of_key.setdefault(key, item) is item:
                to_insert.append(item)
        async with self._database.transaction() as connection:
            inserted = await tasks.insert_many(connection, to_insert, now=self._database.now)
            repeated = [item for item in items if item.id not in inserted]
            found = await self._find_repeated(connection, repeated)
            await notify(connection, {QUEUE if row["due"] else DUE for row in inserted.values()})
        outcomes: list[Created | BloomError] = []
        for item in items:
            row = inserted.get(item.id)
            outcomes.append(
                found[item.id] if row is None else Created(_queued(item, row["seq"], row["created_at"]), True)
            )
        return outcomes

    async def _find_repeated(
        self, connection: Connection, repeated: Sequence[NewTask]
    ) -> dict[TaskId, Created | BloomError]:
        if not repeated:
            return {}
        keys = {item.id: (item.scope, item.idempotency_key or "") for item in repeated}
        used = await tasks.used_keys(connection, list(keys.values()))
        known = await tasks.by_ids(connection, [key.task_id for key in used.values()])
        outcomes: dict[TaskId, Created | BloomError] = {}
        for item in repeated:
            key = used[keys[item.id]]
            if key.digest != item.digest:
                outcomes[item.id] = Conflict(
                    "This idempotency_key was used with another body; use a new key for a new task.",
                    code="idempotency_key_reused",
                    task_id=key.task_id,
                )
            else:
                outcomes[item.id] = Created(known[key.task_id], False)
        return outcomes

    async def get(self, task_id: TaskId) -> Task:
        """The whole task. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await tasks.by_ids(connection, [task_id])
        if task_id not in found:
            raise task_not_found(task_id)
        return found[task_id]

    async def page(self, *, status: TaskStatus | None, before: int | None, limit: int) -> list[Task]:
        """Up to `limit` tasks older than the one with `seq` `before`, newest first, long prompts cut."""
        async with self._database.transaction() as connection:
            return await tasks.page(connection, status=status, before=before, limit=limit, cut=LIST_CUT_CHARS)

    async def search(self, wanted: TaskFilter, *, before: int | None, limit: int) -> Search:
        """Up to `limit` of the wanted tasks older than the one with `seq` `before`, newest first, prompts cut to a line or two.
        Looks at REACH tasks at most, unless an index leads to the wanted ones.
        """
        cut = SEARCH_CUT_CHARS
        async with self._database.transaction() as connection:
            if wanted.is_indexed:
                found = await tasks.page(connection, status=wanted.status, before=before, limit=limit + 1, cut=cut)
                looked_to = None
            else:
                found, looked_to = await tasks.search(
                    connection, wanted, before=before, limit=limit + 1, reach=REACH, cut=cut
                )
        more = len(found) > limit
        return Search(found[:limit], found[limit - 1].seq if more else looked_to, more)

    async def stats(self) -> dict[str, dict[str, int | dict[str, int]]]:
        """Counts of tasks by state, leases and workers."""
        async with self._database.transaction() as connection:
            counted = await counts.total(connection)
            worker_counts = await workers.count(connection)
        by_status: dict[str, int] = {status.value: n for status, n in counted.by_status.items()}
        return {
            "tasks": {"total": sum(by_status.values()), "by_status": by_status},
            "leases": {"total": counted.leases, "active": sum(counted.by_status[status] for status in HELD)},
            "workers": {**worker_counts},
        }

    async def queue_gauges(self) -> QueueGauges:
        """How long the queue is, and how long what it holds has waited."""
        async with self._database.transaction() as connection:
            counted = await counts.total(connection)
            return await gauges.read(connection, counted.by_status, now=self._database.now)

    async def tidy_counts(self) -> None:
        """Keep what `stats` reads short and right."""
        async with self._database.transaction() as connection:
            await counts.tidy(connection, now=self._database.now)

    async def cancel(self, task_id: TaskId, *, actor: str) -> Task:
        """End a queued task at once, or have the worker that holds it told. Repeating this on a held task changes nothing.

        Raises NotFound, or Conflict (`already_final`).
        """
        async with self._database.transaction() as connection:
            await leases.lock_tasks(connection, [task_id])
            changed = await completions.cancel(connection, task_id, actor=actor, now=self._database.now)
            task = (await tasks.by_ids(connection, [task_id])).get(task_id)
            if task is None:
                raise task_not_found(task_id)
            if not changed and task.status in FINAL:
                raise Conflict(f"The task is {task.status} already.", code="already_final", status=task.status)
            # A queued task that goes may have been first of its concurrency key: the next one can be claimed.
            await notify(connection, [task_topic(task_id), *([QUEUE] if task.concurrency_key else [])])
            return task

    async def requeue(self, task_id: TaskId, *, actor: str) -> Task:
        """Put a failed, dead or cancelled task back into the queue with all its attempts.

        Raises NotFound, or Conflict (`not_requeueable`).
        """
        async with self._database.transaction() as connection:
            await leases.lock_tasks(connection, [task_id])
            changed = await completions.requeue(connection, task_id, actor=actor, now=self._database.now)
            task = (await tasks.by_ids(connection, [task_id])).get(task_id)
            if task is None:
                raise task_not_found(task_id)
            if not changed:
                raise Conflict(
                    f"The task is {task.status}; only a failed, dead or cancelled task can be requeued.",
                    code="not_requeueable",
                    status=task.status,
                )
            await notify(connection, [task_topic(task_id), QUEUE])
            return task

    async def attempts(self, task_id: TaskId) -> list[Attempt]:
        """The leases of a task, oldest first."""
        async with self._database.transaction() as connection:
            return await leases.attempts(connection, task_id)

    async def results(self, task_id: TaskId) -> list[Result]:
        """What the attempts of a task reported, oldest first, long outputs cut. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await completions.results_by_task(connection, task_id, cut=LIST_CUT_CHARS)
            if not found and not await tasks.exists(connection, task_id):
                raise task_not_found(task_id)
            return found

    async def rejected_results(self, task_id: TaskId) -> list[RejectedResult]:
        """What workers reported of this task when its lease was no longer theirs, oldest first, long outputs cut."""
        async with self._database.transaction() as connection:
            return await rejected.by_task(connection, task_id, cut=LIST_CUT_CHARS)

    async def result(self, task_id: TaskId, result_id: ResultId) -> Result | RejectedResult:
        """One result of a task, rejected or not, with all that is kept of its output. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await completions.result(connection, task_id, result_id)
            found = found or await rejected.by_id(connection, task_id, result_id)
        if found is None:
            raise result_not_found(result_id)
        return found

    async def events(self, task_id: TaskId, *, after: int, limit: int) -> list[Event]:
        """Up to `limit` events of a task after the event `after`, in order. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await events.events_after(connection, task_id, after=after, limit=limit)
            if not found and not await tasks.exists(connection, task_id):
                raise task_not_found(task_id)
            return found

    async def newest_events(self, task_id: TaskId, *, chars: int, limit: int) -> list[Event]:
        """The end of what happened in the runs of a task, in order: about `chars` characters of it, at most `limit` events."""
        async with self._database.transaction() as connection:
            return await events.newest_events(connection, task_id, chars=chars, limit=limit)


def _new_task(request: CreateTask, *, actor: str, header_key: str | None, origin: Origin) -> NewTask:
    key = request.idempotency_key or header_key
    fields = {
        "context_id": request.context_id,
        "agent_slug": request.agent_slug,
        "prompt": request.prompt,
        "context_hints": request.context_hints,
        "timeout_sec": request.policy.timeout_sec,
        "budget": request.policy.budget,
        "desired_format": request.desired_format,
        "priority": request.priority,
        "run_at": None if request.run_at is None else from_ms(request.run_at).isoformat(),
        "labels": request.labels,
        "concurrency_key": request.concurrency_key,
        "retry_base_sec": request.retry.base_sec,
        "retry_max_sec": request.retry.max_sec,
        "max_attempts": request.max_attempts,
        "request_id": origin.request_id,
        "traceparent": origin.traceparent,
    }
    # Keys are kept per API key; the actor is who showed it.
    return NewTask(new_task_id(), fields, actor, actor, key, "" if key is None else _digest(request))


def _digest(request: CreateTask) -> str:
    """By which another request with the same idempotency key is known for the same one."""
    return hashlib.sha256(request.model_dump_json(exclude={"idempotency_key"}).encode()).hexdigest()


def _queued(item: NewTask, seq: int, created_at: datetime) -> Task:
    """The task as it was inserted, without reading it back."""
    fields = dict(item.fields)
    run_at = fields.pop("run_at")
    return Task(
        **fields,
        id=item.id,
        seq=seq,
        status=TaskStatus.QUEUED,
        run_at=None if run_at is None else datetime.fromisoformat(run_at),
        attempts=0,
        lease_id=None,
        worker_id=None,
        cancel_requested_at=None,
        created_at=created_at,
        updated_at=created_at,
    )
