"""Delivering what runs left in the spool: the events of each, large outputs, then the reports."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import CompleteBatchAnswer
from bloom.worker.clocks import now_ms
from bloom.worker.completion import failure
from bloom.worker.options import Pace
from bloom.worker.reachability import Backoff, is_passing
from bloom.worker.rejected import Rejected
from bloom.worker.runs import Run, Runs
from bloom.worker.storable import to_storable_json
from bloom.worker.streaming import Append, EventStream
from bloom.worker.uploading import OutputUpload, Put, is_to_be_uploaded

log = logging.getLogger("bloom.worker")

MAX_COMPLETIONS = 100
MAX_BYTES = 31 * 1024 * 1024
UPLOADS_AT_ONCE = 4
MAX_MISMATCHES = 3
"""So often an output is uploaded anew because the runtime has not received what was sent."""

Complete = Callable[[str, Sequence[dict[str, Any]]], Awaitable[CompleteBatchAnswer]]
"""Deliver reports of runs of (worker id). Raises RuntimeUnreachable or RuntimeRefused."""

_PASSING_OUTCOMES = frozenset({"internal", "unavailable", "upstream"})
_REFUSED_CONTENT = frozenset({"invalid", "too_large", "output_mismatch"})


class Delivery:
    """Ends the runs of `runs`: whatever is delivered, or finally refused, leaves the spool and frees its slot."""

    def __init__(
        self, runs: Runs, append: Append, put: Put, complete: Complete, rejected: Rejected, pace: Pace
    ) -> None:
        self._runs = runs
        self._append = append
        self._put = put
        self._complete = complete
        self._rejected = rejected
        self._pace = pace
        self._with_output: asyncio.Queue[Run] = asyncio.Queue()
        self._ready: deque[Run] = deque()
        self._arrived = asyncio.Event()
        self._backoff = Backoff(pace)
        self._max_completions = MAX_COMPLETIONS

    async def follow(self, run: Run) -> None:
        """Deliver the events of `run` while it goes on, then queue its report, or first its output where that is large."""
        await EventStream(run, self._append, self._pace).deliver_all()
        await run.reported.wait()
        if not run.has_report:
            await self._end(run)
        elif await asyncio.to_thread(run.spooled.output_path.exists):
            self._with_output.put_nowait(run)
        else:
            self._queue(run)

    async def upload_forever(self) -> None:
        """Upload large outputs, one after the other, and queue their reports. Several of these may run side by side."""
        while True:
            run = await self._with_output.get()
            completion = await asyncio.to_thread(run.spooled.read_report)
            if completion is not None and is_to_be_uploaded(completion):
                upload = OutputUpload(run, self._put, self._pace)
                completion = await upload.deliver(completion, anew=run.mismatches > 0)
                await asyncio.to_thread(run.spooled.write_report, completion, now_ms())
            self._queue(run)

    async def complete_forever(self) -> None:
        """Deliver reports as they come; those that come while a request is under way are the next batch."""
        while True:
            self._arrived.clear()
            if not self._ready:
                await self._arrived.wait()
            batch, completions = await self._next_batch()
            if not batch:
                continue
            left = await self._deliver(batch, completions)
            # What failed goes to the end and, for a while, alone: nothing may hold up what comes behind it.
            self._ready.extend(left)

    async def _next_batch(self) -> tuple[list[Run], list[dict[str, Any]]]:
        batch: list[Run] = []
        completions: list[dict[str, Any]] = []
        size = 0
        while self._ready and len(batch) < self._max_completions:
            run = self._ready[0]
            if batch and run.spooled.entry.worker_id != batch[0].spooled.entry.worker_id:
                break
            completion = await asyncio.to_thread(run.spooled.read_report)
            if completion is None:
                log.error("a report in the spool cannot be read", extra=run.about)
                completion = failure(run.spooled.entry, "report_lost", "the worker lost the report", retryable=True)
            size += await asyncio.to_thread(_size_of, completion)
            if batch and size > MAX_BYTES:
                break
            self._ready.popleft()
            batch.append(run)
            completions.append(completion)
        return batch, completions

    async def _deliver(self, batch: Sequence[Run], completions: Sequence[dict[str, Any]]) -> Sequence[Run]:
        """Send one request; returns the runs whose report has to be sent again."""
        try:
            answer = await self._complete(batch[0].spooled.entry.worker_id, completions)
        except (RuntimeUnreachable, RuntimeRefused) as error:
            if isinstance(error, RuntimeRefused) and not is_passing(error) and len(batch) == 1:
                content = error.status in (400, 413)
                outcome = "invalid" if content else error.code
                return [] if await self._settle(batch[0], completions[0], outcome, error.message) else batch
            self._max_completions = 1
            await asyncio.sleep(self._backoff.pause_sec(error) if is_passing(error) else 0)
            return batch
        self._backoff.reset()
        self._max_completions = min(self._max_completions * 2, MAX_COMPLETIONS)
        outcomes = {item.lease_id: item for item in answer.completions}
        left: list[Run] = []
        for run, completion in zip(batch, completions, strict=True):
            item = outcomes.get(run.lease_id)
            outcome = "unavailable" if item is None else item.outcome
            if not await self._settle(run, completion, outcome, (item and item.error) or outcome):
                left.append(run)
        if left:
            await asyncio.sleep(self._backoff.pause_sec())
        return left

    async def _settle(self, run: Run, completion: dict[str, Any], outcome: str, why: str) -> bool:
        """Act on what the runtime said to one report; False when a report of this run has to be sent again."""
        told = {**run.about, "outcome": outcome}
        if outcome in _PASSING_OUTCOMES:
            return False
        if outcome == "ok":
            log.info("report delivered", extra=run.about)
        elif outcome == "output_mismatch" and run.mismatches < MAX_MISMATCHES:
            log.warning("the runtime has not received the output as it was sent; it is sent anew", extra=told)
            run.mismatches += 1
            self._with_output.put_nowait(run)
            return True
        elif outcome in _REFUSED_CONTENT and completion["code"] != "report_refused":
            log.error("the runtime refuses a report (%s)", why, extra=told)
            await asyncio.to_thread(self._rejected.keep, run.spooled.name, completion, outcome)
            refused = failure(run.spooled.entry, "report_refused", f"the runtime refused the report: {why}")
            await asyncio.to_thread(run.spooled.write_report, refused, now_ms())
            return False
        else:
            # `cancelled` is how the report of a cancelled run is answered.
            level = logging.INFO if outcome == "cancelled" else logging.WARNING
            log.log(level, "the runtime did not take a report", extra=told)
            await asyncio.to_thread(self._rejected.keep, run.spooled.name, completion, outcome)
        await self._end(run)
        return True

    def _queue(self, run: Run) -> None:
        self._ready.append(run)
        self._arrived.set()

    async def _end(self, run: Run) -> None:
        await asyncio.to_thread(run.spooled.remove)
        self._runs.end(run)


def _size_of(completion: dict[str, Any]) -> int:
    return len(to_storable_json(completion).encode())
