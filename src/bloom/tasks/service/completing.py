"""Completion: the report that ends a lease, accepted once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bloom.artifacts import store as artifacts
from bloom.artifacts.model import Artifact, Placement
from bloom.artifacts.service import ArtifactService
from bloom.base.errors import BloomError, Conflict, NotFound
from bloom.base.ids import ArtifactId, LeaseId, TaskId, WorkerId, new_artifact_id, new_result_id
from bloom.db.batcher import Batcher
from bloom.db.hub import QUEUE, notify, task_topic
from bloom.db.pool import Connection, Database
from bloom.tasks.model import FINAL, Result, Task, TaskStatus
from bloom.tasks.schemas import ReportBody
from bloom.tasks.service import refusals
from bloom.tasks.service.tasks import LIST_CUT_CHARS
from bloom.tasks.store import completions, leases, tasks
from bloom.tasks.store.completions import Accepted, Completion
from bloom.workers import store as workers

ERROR_OUTPUT_MAX_CHARS = 1024 * 1024
"""What an error completion may keep of its output, in its result; only a success makes an artifact."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A completion on its way into a transaction, with where its output went."""

    completion: Completion
    placement: Placement


@dataclass(frozen=True, slots=True)
class Completed:
    """The first outcome of a lease. `repeated`: this call only asked for it again."""

    task: Task
    result: Result | None
    artifact: Artifact | None
    repeated: bool = False


class CompletionService:
    """Accepts reports."""

    def __init__(self, database: Database, artifact_service: ArtifactService) -> None:
        self._database = database
        self._artifacts = artifact_service
        self._completions: Batcher[Submission, Completed] = Batcher("complete", self._complete_many, max_batch=64)

    async def complete(
        self, task_id: TaskId, lease_id: LeaseId | None, body: ReportBody, *, worker_id: WorkerId | None = None
    ) -> Completed:
        """End a lease of a task with a report. Without `lease_id` it speaks for the current one; `worker_id`, if given, must
        hold it. The same report of the same lease again returns the first outcome.

        Raises NotFound, or Conflict: `lease_lost`, `not_leased`, `already_completed`, or `cancelled` when a person asked for
        the end before (the lease then ends, and the task is cancelled).
        """
        artifact_id = new_artifact_id()
        success = body.status == "success"
        output = body.output or ""
        placement = await self._artifacts.place(task_id, artifact_id, output) if success else Placement({})
        inline = placement.columns.get("content") is not None
        keep = LIST_CUT_CHARS if success else ERROR_OUTPUT_MAX_CHARS
        completion = Completion(
            task_id=task_id,
            lease_id=lease_id,
            worker_id=worker_id,
            success=success,
            hand_back=body.hand_back,
            retryable=body.retryable,
            retry_after_sec=body.retry_after_sec,
            output=None if inline or body.output is None else output[:keep],
            output_cut=not inline and len(output) > keep,
            error_message=body.error_message,
            code=body.code,
            metrics=body.metrics.model_dump(mode="json"),
            digest=_digest(body),
            result_id=new_result_id(),
            artifact_id=artifact_id,
            artifact={
                "artifact_type": body.artifact_type,
                "artifact_tags": body.artifact_tags,
                **placement.columns,
            },
        )
        try:
            completed = await self._completions.submit(Submission(completion, placement))
        except (NotFound, Conflict):
            await self._artifacts.discard(placement)
            raise
        if completed.repeated:
            await self._artifacts.discard(placement)
        return completed

    async def _complete_many(self, items: Sequence[Submission]) -> Sequence[Completed | BloomError]:
        async with self._database.transaction() as connection:
            reports = [item.completion for item in items]
            await leases.lock_tasks(connection, [report.task_id for report in reports])
            accepted = await completions.complete_many(connection, reports, now=None)
            for n, outcome in accepted.items():
                if outcome.artifact_id is not None and items[n].placement.chunks:
                    await artifacts.insert_chunks(connection, outcome.artifact_id, items[n].placement.chunks)
            outcomes = await self._outcomes(connection, reports, accepted)
            await notify(connection, _topics(reports, accepted))
        if held := {outcome.worker_id for outcome in accepted.values()}:
            async with self._database.transaction() as connection:
                await workers.heard_from_many(connection, held, claims=False, now=None)
        return outcomes

    async def _outcomes(
        self, connection: Connection, reports: Sequence[Completion], accepted: dict[int, Accepted]
    ) -> list[Completed | BloomError]:
        """Answers to all reports, those that were refused classified under the same locks."""
        found = await tasks.by_ids(connection, [report.task_id for report in reports])
        lease_ids = [outcome.lease_id for outcome in accepted.values()]
        lease_ids += [report.lease_id for n, report in enumerate(reports) if n not in accepted and report.lease_id]
        results = await completions.results_by_leases(connection, lease_ids)
        outcomes: list[Completed | BloomError] = []
        for n, report in enumerate(reports):
            task = found.get(report.task_id)
            if task is None:
                outcomes.append(refusals.task_not_found(report.task_id))
            elif n in accepted:
                outcome = accepted[n]
                if outcome.next_status is TaskStatus.CANCELLED:
                    outcomes.append(refusals.cancelled())
                    continue
                result = results[outcome.lease_id][0] if outcome.lease_id in results else None
                outcomes.append(Completed(task, result, await _artifact(connection, result)))
            else:
                outcomes.append(await self._refused(connection, report, task, results))
        return outcomes

    async def _refused(
        self,
        connection: Connection,
        report: Completion,
        task: Task,
        results: dict[LeaseId, tuple[Result, str]],
    ) -> Completed | BloomError:
        known = results.get(report.lease_id) if report.lease_id is not None else None
        if known is not None and known[0].task_id == task.id:
            result, digest = known
            if result.code == "cancelled":
                return refusals.cancelled()
            if digest != report.digest:
                return refusals.already_completed()
            return Completed(task, result, await _artifact(connection, result), repeated=True)
        if report.lease_id is not None and report.lease_id != task.lease_id:
            return refusals.lease_lost()
        if task.status is TaskStatus.CANCELLED:
            return refusals.cancelled()
        if report.lease_id is None and (task.status in FINAL or task.status is TaskStatus.QUEUED):
            return refusals.not_held(task.status)
        return refusals.lease_lost()


async def _artifact(connection: Connection, result: Result | None) -> Artifact | None:
    if result is None or result.artifact_id is None:
        return None
    return await artifacts.by_id(connection, ArtifactId(result.artifact_id))


def _digest(report: ReportBody) -> str:
    body: dict[str, Any] = report.model_dump(mode="json", exclude={"lease_id", "task_id"})
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _topics(reports: Sequence[Completion], accepted: dict[int, Accepted]) -> list[str]:
    """A slot is free and, behind a concurrency key, the next task may be claimable: those who wait look again."""
    topics = [task_topic(reports[n].task_id) for n in accepted]
    return [QUEUE, *topics] if accepted else []
