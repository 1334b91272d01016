"""Delivering the events of one run, in order, while it goes on and after it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import AppendAnswer
from bloom.worker.clocks import now_ms
from bloom.worker.executors.interface import StopReason
from bloom.worker.options import Pace
from bloom.worker.reachability import Backoff, is_passing
from bloom.worker.runs import Run
from bloom.worker.spool import STATUS

log = logging.getLogger("bloom.worker")

MAX_EVENTS = 200
MAX_BYTES = 512 * 1024

Append = Callable[[str, str, Sequence[dict[str, Any]]], Awaitable[AppendAnswer]]
"""Deliver events of (task id, lease id). Raises RuntimeUnreachable or RuntimeRefused."""

_MAX_STALLS = 5


class EventStream:
    """One run's events on their way. One request is under way at a time; what comes meanwhile is the next batch."""

    def __init__(self, run: Run, append: Append, pace: Pace) -> None:
        self._run = run
        self._append = append
        self._backoff = Backoff(pace)
        self._max_events = MAX_EVENTS
        self._stalls = 0

    async def deliver_all(self) -> None:
        """Deliver until the run is over and the runtime has all its events, or wants no more of them."""
        run = self._run
        while not run.lost:
            run.news.clear()
            over = run.reported.is_set()  # looked at before the spool: a report comes after all its events
            batch = await asyncio.to_thread(run.spooled.read_batch, self._max_events, MAX_BYTES)
            if batch:
                if not await self._deliver(batch):
                    return
            elif over:
                return
            else:
                await run.news.wait()

    async def _deliver(self, batch: Sequence[dict[str, Any]]) -> bool:
        """Send `batch`; False when the runtime wants no more events of this lease."""
        run = self._run
        try:
            answer = await self._append(run.task_id, run.lease_id, batch)
        except (RuntimeUnreachable, RuntimeRefused) as error:
            if is_passing(error):
                await asyncio.sleep(self._backoff.pause_sec(error))
                return True
            if isinstance(error, RuntimeRefused):
                return await self._on_refusal(error, batch)
            raise
        self._backoff.reset()
        self._max_events = min(self._max_events * 2, MAX_EVENTS)
        if answer.cancel:
            run.stop.set(StopReason.CANCELLED)
        return await self._continue_at(answer.next_seq, batch)

    async def _on_refusal(self, error: RuntimeRefused, batch: Sequence[dict[str, Any]]) -> bool:
        run = self._run
        next_seq = error.detail.get("next_seq")
        if error.code == "events_gap" and isinstance(next_seq, int):
            return await self._continue_at(next_seq, batch)
        if error.status in (400, 413) and len(batch) > 1:
            self._max_events = len(batch) // 2
            return True
        if error.status in (400, 413) and batch[0]["data"].get("state") != "refused":
            data = {"state": "refused", "reason": error.code, "dropped": 1}
            log.warning("the runtime refuses an event", extra={**run.about, "code": error.code})
            return await self._deliver([{"seq": batch[0]["seq"], "type": STATUS, "data": data, "at": now_ms()}])
        if error.code == "lease_lost" and not run.reported.is_set():
            log.warning("a lease was lost", extra={**run.about, "lease": run.lease_id})
            run.lose()
        elif error.code == "cancelled":
            run.stop.set(StopReason.CANCELLED)
        else:
            log.info("the runtime takes no more events", extra={**run.about, "code": error.code})
        return False

    async def _continue_at(self, next_seq: int, batch: Sequence[dict[str, Any]]) -> bool:
        """Go on with event `next_seq`. An answer that brings us no further is waited out a few times, then given up."""
        self._stalls = 0 if next_seq > batch[0]["seq"] else self._stalls + 1
        if self._stalls <= _MAX_STALLS and await asyncio.to_thread(self._run.spooled.acknowledge, next_seq):
            if self._stalls:
                await asyncio.sleep(self._backoff.pause_sec())
            return True
        log.warning(
            "the runtime expects an event that is not there; the rest is not sent",
            extra={**self._run.about, "expected": next_seq},
        )
        return False
