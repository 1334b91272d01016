"""One slot's run: from a granted lease to a report in the spool."""

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

from bloom.base.logging import request_id
from bloom.telemetry.tracing import span
from bloom.worker.clocks import now_ms
from bloom.worker.completion import completion_of, failure, hand_back
from bloom.worker.executors.interface import Executor, Report, RunEvent, RunTask, StopReason
from bloom.worker.fitness import Fitness
from bloom.worker.runs import Run
from bloom.worker.waiting import unless

log = logging.getLogger("bloom.worker")


async def run_lease(run: Run, task: RunTask, executor: Executor, fitness: Fitness) -> None:
    """Run `task` and put its report into the spool; `run.reported` is set when it is there, or when there will be none.

    A run that the runtime says is lost leaves no report, unless it had succeeded before its child could be stopped. Each line
    of the log on the way names the request that made the task.
    """
    request_id.set(task.request_id)  # in the context of this run's own asyncio task
    completion = await _completion(run, task, executor, fitness)
    if completion is not None:
        await asyncio.to_thread(run.spooled.write_report, completion, now_ms())
        run.has_report = True
    run.reported.set()
    run.news.set()


async def _completion(run: Run, task: RunTask, executor: Executor, fitness: Fitness) -> dict[str, Any] | None:
    entry = run.spooled.entry
    started = time.monotonic()
    metrics: dict[str, Any] = {"duration_ms": 0}
    if await unless(run.stop.event, _confirmed(run)):
        log.info("run started", extra={"task": task.task_id, "attempt": task.attempt})
        report = await _execute(run, task, executor)
        duration_ms = int((time.monotonic() - started) * 1000)
        ended = {"task": task.task_id, "status": report.status, "code": report.code, "duration_ms": duration_ms}
        log.info("run ended", extra=ended)
        if run.stop.reason is None:
            fitness.judge(report)
        if run.stop.reason is None or report.status == "success":
            return await asyncio.to_thread(completion_of, entry, report, duration_ms, run.spooled.output_path)
        metrics = {"duration_ms": duration_ms, **report.metrics}
    match run.stop.reason:
        case StopReason.CANCELLED:
            return failure(entry, "cancelled", "stopped because a person cancelled the task", metrics=metrics)
        case StopReason.SHUTDOWN:
            message = "handed back because the worker was stopped, or takes nothing new"
            return hand_back(entry, message, metrics=metrics)
        case _ if run.lost:
            return None
        case _:
            # An attempt, unlike a hand-back: a task whose run cuts its worker off must not come back for ever.
            message = "stopped because the runtime could not be reached for the length of the lease"
            return failure(entry, "interrupted", message, retryable=True, metrics=metrics)


async def _confirmed(run: Run) -> bool:
    return await run.confirmed.wait()


async def _execute(run: Run, task: RunTask, executor: Executor) -> Report:
    async def emit(event: RunEvent) -> None:
        await asyncio.to_thread(run.spooled.append, event.type, event.data, now_ms())
        run.news.set()

    about = {"bloom.task_id": task.task_id, "bloom.lease_id": task.lease_id, "bloom.attempt": task.attempt}
    try:
        with span("task.run", task.traceparent, about) as traceparent:
            return await executor.run(replace(task, traceparent=traceparent), emit, run.stop)
    except Exception as error:  # whatever an executor gets wrong, the task needs a report
        log.error("the executor failed", extra={"task": task.task_id, "error": type(error).__name__})
        log.debug("the executor failed", exc_info=True)
        return Report(
            status="error",
            output=None,
            error_message=f"the worker could not run the task ({type(error).__name__})",
            code="executor_failed",
            retryable=True,
            retry_after_sec=None,
            metrics={},
        )
