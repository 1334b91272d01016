"""Completion: the report that ends a lease, accepted once."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bloom.artifacts import store as artifacts
from bloom.artifacts.model import Artifact, Placement
from bloom.artifacts.service import ArtifactService
from bloom.base.errors import BloomError, Conflict, NotFound
from bloom.base.ids import ArtifactId, LeaseId, TaskId, WorkerId, new_artifact_id, new_result_id
from bloom.db.batcher import Batcher
from bloom.db.hub import DUE, QUEUE, notify, task_topic
from bloom.db.pool import Connection, Database
from bloom.tasks.model import FINAL, HELD, Result, Task, TaskStatus
from bloom.tasks.schemas import ReportBody
from bloom.tasks.service import measuring, refusals
from bloom.tasks.service.tasks import LIST_CUT_CHARS
from bloom.tasks.store import completions, leases, rejected, tasks
from bloom.tasks.store.completions import Accepted, Completion, Reported
from bloom.tasks.store.rejected import LateReport
from bloom.workers.service import SignsOfLife

ERROR_OUTPUT_MAX_CHARS = 1024 * 1024
"""What an error completion may keep of its output, in its result; only a success makes an artifact."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A completion on its way into a transaction, with where its output went (None: what it names is not there), and what
    of its output is kept if it comes too late.
    """

    completion: Completion
    placement: Placement | None
    text: str | None
    text_cut: bool
    shown: bool
    """Whether the caller wants to see what came of it; reading that back costs more than the completion itself."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The first outcome of a lease. `repeated`: this call only asked for it again."""

    task: Task
    result: Result | None
    artifact: Artifact | None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Where the task went, whether the content that was placed belongs to an artifact now, and what the caller is shown."""

    status: TaskStatus
    placed: bool
    shown: Completed | None


class CompletionService:
    """Accepts reports."""

    def __init__(self, database: Database, artifact_service: ArtifactService, signs: SignsOfLife) -> None:
        self._database = database
        self._signs = signs
        self._artifacts = artifact_service
        self._completions: Batcher[Submission, _Outcome] = Batcher("complete", self._complete_many, max_batch=64)

    async def complete(
        self,
        task_id: TaskId,
        lease_id: LeaseId | None,
        body: ReportBody,
        *,
        worker_id: WorkerId | None = None,
        key: str | None = None,
    ) -> Completed:
        """End a lease of a task with a report. Without `lease_id` it speaks for the current one; `worker_id`, if given, must
        hold it. The same report of the same lease again returns the first outcome. `key`: whose key reports, for the audit log.

        A report of a lease of `worker_id` that is not current any more is kept as a rejected result, and changes nothing
        else.

        Raises NotFound, or Conflict: `lease_lost`, `not_leased`, `already_completed`, `output_mismatch` when what was uploaded
        is not what the report names, or `cancelled` when a person asked for the end before (the lease then ends, and the task
        is cancelled).
        """
        submission = await self._place(task_id, lease_id, body, worker_id=worker_id, key=key, shown=True)
        (outcome,) = await self._submit_many([submission])
        if isinstance(outcome, BloomError):
            raise outcome
        assert outcome.shown is not None  # noqa: S101 (asked for)
        return outcome.shown

    async def report_many(
        self, reports: Sequence[tuple[TaskId, LeaseId, ReportBody]], *, worker_id: WorkerId, key: str | None = None
    ) -> Sequence[TaskStatus | BloomError]:
        """The same for the reports of a worker, which share one transaction. It is told only where each task went: nothing is
        read back for it. What `complete` would raise for a report stands in its place.
        """

        async def place(report: tuple[TaskId, LeaseId, ReportBody]) -> Submission | BloomError:
            try:
                return await self._place(*report, worker_id=worker_id, key=key, shown=False)
            except BloomError as error:
                return error

        placed = await asyncio.gather(*(place(report) for report in reports))
        outcomes = iter(await self._submit_many([item for item in placed if isinstance(item, Submission)]))
        answers = [next(outcomes) if isinstance(item, Submission) else item for item in placed]
        return [answer if isinstance(answer, BloomError) else answer.status for answer in answers]

    async def _submit_many(self, submissions: Sequence[Submission]) -> Sequence[_Outcome | BloomError]:
        if not submissions:
            return []
        outcomes = await self._completions.submit_many(submissions)
        for submission, outcome in zip(submissions, outcomes, strict=True):
            # Refused, a repetition, or of a task that was handed back: the object belongs to no artifact. While it is not known
            # whether the transaction took place, it is left to the sweeper.
            if isinstance(outcome, NotFound | Conflict) or (isinstance(outcome, _Outcome) and not outcome.placed):
                await self._discard(submission.placement)
        return outcomes

    async def _place(
        self,
        task_id: TaskId,
        lease_id: LeaseId | None,
        body: ReportBody,
        *,
        worker_id: WorkerId | None,
        key: str | None,
        shown: bool,
    ) -> Submission:
        success = body.status == "success"
        text = body.output
        if body.output_ref is not None:
            artifact_id = ArtifactId(body.output_ref)
            placement = await self._artifacts.place_upload(
                task_id, artifact_id, size_bytes=body.output_size or 0, sha256=(body.output_sha256 or "").lower()
            )
            text = None if placement is None else placement.preview
        else:
            artifact_id = new_artifact_id()
            placement = await self._artifacts.place(task_id, artifact_id, text or "") if success else Placement({})
        inline = placement is not None and placement.columns.get("content") is not None
        keep = LIST_CUT_CHARS if success else ERROR_OUTPUT_MAX_CHARS
        completion = Completion(
            task_id=task_id,
            lease_id=lease_id,
            worker_id=worker_id,
            success=success,
            hand_back=body.hand_back,
            retryable=body.retryable,
            retry_after_sec=body.retry_after_sec,
            output=None if inline or text is None else text[:keep],
            output_cut=not inline and text is not None and len(text) > keep,
            error_message=body.error_message,
            code=body.code,
            metrics=body.metrics.model_dump(mode="json"),
            digest=_digest(body),
            result_id=new_result_id(),
            artifact_id=artifact_id,
            names_upload=body.output_ref is not None,
            key=key,
            artifact={
                "artifact_type": body.artifact_type,
                "artifact_tags": body.artifact_tags,
                **(placement.columns if placement else {}),
            },
        )
        text_cut = placement is not None and placement.preview is not None and not inline
        return Submission(completion, placement, text, text_cut, shown)

    async def _discard(self, placement: Placement | None) -> None:
        if placement is not None:
            await self._artifacts.discard(placement)

    async def _complete_many(self, items: Sequence[Submission]) -> Sequence[_Outcome | BloomError]:
        async with self._database.transaction() as connection:
            reports = [item.completion for item in items]
            await leases.lock_tasks(connection, [report.task_id for report in reports])
            placed = {n: item.completion for n, item in enumerate(items) if item.placement is not None}
            accepted = await completions.complete_many(connection, placed, now=self._database.now)
            for n, outcome in accepted.items():
                placement = items[n].placement
                if outcome.artifact_id is not None and placement is not None and placement.chunks:
                    await artifacts.keep_chunks(connection, reports[n].task_id, outcome.artifact_id, placement)
            outcomes = await self._outcomes(connection, items, accepted)
            await self._keep_rejected(connection, items, outcomes)
            await notify(connection, _topics(reports, accepted))
        for n, outcome in accepted.items():
            measuring.report_accepted(reports[n], outcome)
        await self._signs.note(outcome.worker_id for outcome in accepted.values())
        return outcomes

    async def _keep_rejected(
        self, connection: Connection, items: Sequence[Submission], outcomes: Sequence[_Outcome | BloomError]
    ) -> None:
        """Keep what workers report of leases that they have lost. A hand-back reports no work."""
        late = [
            LateReport(item.completion, item.text, item.text_cut)
            for item, outcome in zip(items, outcomes, strict=True)
            if isinstance(outcome, BloomError) and outcome.code == "lease_lost"
            if item.completion.worker_id is not None and not item.completion.hand_back
        ]
        if late:
            await rejected.keep_many(connection, late, cut=ERROR_OUTPUT_MAX_CHARS, now=self._database.now)

    async def _outcomes(
        self, connection: Connection, items: Sequence[Submission], accepted: dict[int, Accepted]
    ) -> list[_Outcome | BloomError]:
        """Answers to all reports, those that were refused classified under the same locks."""
        looked_at = {n: item.completion for n, item in enumerate(items) if item.shown or n not in accepted}
        found = await tasks.by_ids(connection, [report.task_id for report in looked_at.values()]) if looked_at else {}
        lease_ids = [accepted[n].lease_id if n in accepted else report.lease_id for n, report in looked_at.items()]
        named = [lease_id for lease_id in lease_ids if lease_id is not None]
        results = await completions.results_by_leases(connection, named) if named else {}
        made = [known.result.artifact_id for known in results.values() if known.result.artifact_id is not None]
        outputs = await artifacts.by_ids(connection, made) if made else {}
        outcomes: list[_Outcome | BloomError] = []
        for n, item in enumerate(items):
            report, outcome = item.completion, accepted.get(n)
            task = found.get(report.task_id)
            if outcome is not None and outcome.next_status is TaskStatus.CANCELLED:
                outcomes.append(refusals.cancelled())
            elif outcome is not None:
                result = results[outcome.lease_id].result if outcome.lease_id in results else None
                shown = None if task is None else Completed(task, result, _artifact(outputs, result))
                outcomes.append(_Outcome(outcome.next_status, outcome.artifact_id is not None, shown))
            elif task is None:
                outcomes.append(refusals.task_not_found(report.task_id))
            else:
                refused = _refused(report, task, results, outputs)
                outcomes.append(refused if isinstance(refused, BloomError) else _repeated(refused, item.placement))
        return outcomes


def _repeated(first: Completed, placement: Placement | None) -> _Outcome:
    placed = placement is not None and first.artifact is not None and first.artifact.object_key == placement.object_key
    return _Outcome(first.task.status, placed, first)


def _refused(
    report: Completion,
    task: Task,
    results: Mapping[LeaseId, Reported],
    outputs: Mapping[ArtifactId, Artifact],
) -> Completed | BloomError:
    known = results.get(report.lease_id) if report.lease_id is not None else None
    if known is not None and known.result.task_id == task.id and report.worker_id in (None, known.result.worker_id):
        if known.cancelled:
            return refusals.cancelled()
        if known.digest != report.digest:
            return refusals.already_completed()
        return Completed(task, known.result, _artifact(outputs, known.result), repeated=True)
    if report.lease_id is not None and report.lease_id != task.lease_id:
        return refusals.lease_lost()
    if task.status is TaskStatus.CANCELLED:
        return refusals.cancelled()
    if report.lease_id is None and (task.status in FINAL or task.status is TaskStatus.QUEUED):
        return refusals.not_held(task.status)
    if report.names_upload and task.status in HELD and report.worker_id in (None, task.worker_id):
        return refusals.output_mismatch()
    return refusals.lease_lost()


def _artifact(outputs: Mapping[ArtifactId, Artifact], result: Result | None) -> Artifact | None:
    return None if result is None or result.artifact_id is None else outputs.get(result.artifact_id)


def _digest(report: ReportBody) -> str:
    """By which the repetition of a report is known, in whatever order its metrics stand."""
    metrics = json.dumps(report.metrics.model_dump(mode="json"), sort_keys=True)
    rest = report.model_dump_json(exclude={"lease_id", "task_id", "metrics"})
    return hashlib.sha256(f"{metrics}{rest}".encode()).hexdigest()


def _topics(reports: Sequence[Completion], accepted: dict[int, Accepted]) -> list[str]:
    """A slot is free and, behind a concurrency key, the next task may be claimable: those who wait look again."""
    topics = [task_topic(reports[n].task_id) for n in accepted]
    if any(outcome.next_status is TaskStatus.QUEUED and outcome.runs_at is not None for outcome in accepted.values()):
        topics.append(DUE)
    return [QUEUE, *topics] if accepted else []
