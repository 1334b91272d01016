"""What every executor does around a child: the timeout, the stop, and the report of a run that was ended by either."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from bloom.worker.child import Child
from bloom.worker.executors.interface import Report, RunEvent, RunTask, StopReason, StopSignal
from bloom.worker.executors.narration import Narration
from bloom.worker.waiting import unless

_LAST_WORDS_SEC = 1.0
"""For reading what a stopped child had still written: it is dead then, so this bounds only a slow `emit`."""

_CODES = {
    StopReason.CANCELLED: "cancelled",
    StopReason.LEASE_LOST: "lease_lost",
    StopReason.SHUTDOWN: "interrupted",
}
_MESSAGES = {
    StopReason.CANCELLED: "The task was cancelled while it ran.",
    StopReason.LEASE_LOST: "The worker lost its lease while the task ran.",
    StopReason.SHUTDOWN: "The worker was stopped while the task ran.",
}


async def supervise(child: Child, reading: Coroutine[Any, Any, None], deadline: float, stop: StopSignal) -> bool:
    """Let `reading` and the child come to their ends, or stop the child at `deadline` (monotonic) or on `stop`.

    A child whose lease is lost gets no grace: another worker may run its task already, or will soon. Returns whether the
    child was stopped. No descendant of it lives then. Raises what `reading` raises.
    """

    async def to_the_end() -> None:
        await reading
        await child.wait()

    ending = asyncio.create_task(to_the_end())
    stopping = asyncio.create_task(stop.event.wait())
    try:
        await asyncio.wait(
            {ending, stopping}, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
        )
        if ending.done():
            ending.result()
            return False
        await unless(stop.lost, child.stop())
        await child.stop(at_once=True)
        await asyncio.wait({ending}, timeout=_LAST_WORDS_SEC)
        if ending.done():
            ending.result()
        return True
    finally:
        for task in (ending, stopping):
            task.cancel()
        await asyncio.gather(ending, stopping, return_exceptions=True)


def stopped_report(task: RunTask, stop: StopSignal, metrics: Mapping[str, Any], remark: str = "") -> Report:
    """The report of a run that `supervise` stopped: for `stop`'s reason, or else because its time was over.

    Only a shutdown is worth another attempt: elsewhere nothing is lost but time.
    """
    if stop.reason is None:
        message = (
            f"The task did not end within its {task.timeout_sec} s: give it a longer timeout_sec, or ask for less."
        )
        return failure("timeout", f"{message} {remark}".strip(), metrics)
    retryable = stop.reason is StopReason.SHUTDOWN
    return failure(_CODES[stop.reason], _MESSAGES[stop.reason], metrics, retryable=retryable)


def failure(
    code: str,
    message: str,
    metrics: Mapping[str, Any],
    *,
    retryable: bool = False,
    retry_after_sec: int | None = None,
) -> Report:
    """An error report."""
    return Report("error", None, message, code, retryable, retry_after_sec, dict(metrics))


async def told(report: Report, narration: Narration, stop: StopSignal) -> Report:
    """`report`, after its error was emitted, unless the run was stopped by the daemon, which knows."""
    if report.status == "error" and stop.reason is None:
        await narration.event(RunEvent("error", {"code": report.code, "message": report.error_message}))
    return report
