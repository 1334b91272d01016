"""Keeping leases: extending them, and never trusting one for longer than the runtime does.

A lease is trusted from the moment before the request that was granted or extended it was sent, for its length less a
margin in which the child can be killed. Two loops: one asks the runtime, the other watches the clock, so that a request
that hangs delays no end.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import ExtendAnswer
from bloom.worker.clocks import boot_clock
from bloom.worker.executors.interface import StopReason
from bloom.worker.options import Pace
from bloom.worker.reachability import Backoff
from bloom.worker.runs import Run, Runs

log = logging.getLogger("bloom.worker")

Extend = Callable[[Sequence[str], float], Awaitable[ExtendAnswer]]
"""Prolong these leases within so many seconds. Raises RuntimeUnreachable or RuntimeRefused."""

_MAX_REQUEST_SEC = 10.0
_WATCH_SEC = 1.0
"""The watch looks at the clock at least this often: the loop's timers stand still while the machine sleeps."""


def margin_sec(ttl_sec: float) -> float:
    """How long before the end of a lease its child is killed: a tenth, at least 2 s, at most a third."""
    return min(max(2.0, ttl_sec / 10), ttl_sec / 3)


class Keeping:
    """Keeps the leases of `runs`. `now` is a monotonic clock in seconds."""

    def __init__(self, runs: Runs, extend: Extend, pace: Pace, now: Callable[[], float] = boot_clock) -> None:
        self._runs = runs
        self._extend = extend
        self._pace = pace
        self._now = now
        self._urgent = False

    def granted(self, run: Run, sent_at: float) -> None:
        """The runtime granted this lease to a claim that was first sent at `sent_at`.

        When its answer took so long that too little is left for the next extend, the run is confirmed by an extend now.
        """
        self._trust(run, sent_at)
        if not run.confirmed.is_set():
            self._urgent = True
        self._runs.changed()

    async def extend_forever(self) -> None:
        """Extend all leases, again and again, in one request for all of them."""
        backoff = Backoff(self._pace)
        last_sent_at = self._now()
        while True:
            await self._until_due(last_sent_at)
            held = {run.lease_id: run for run in self._held()}
            shortest_sec = min(run.ttl_sec for run in held.values())
            sent_at = self._now()
            try:
                answer = await self._extend(list(held), min(_MAX_REQUEST_SEC, shortest_sec / 4))
            except (RuntimeUnreachable, RuntimeRefused) as error:
                # However long the runtime asks to wait, a lease is worth another try before it ends.
                await asyncio.sleep(min(backoff.pause_sec(error), self._interval_sec(held.values())))
                self._urgent = True
                continue
            backoff.reset()
            self._urgent = False
            last_sent_at = sent_at
            self._take(held, answer, sent_at)

    async def watch_forever(self) -> None:
        """Stop each run whose trust window ends."""
        while True:
            now = self._now()
            running = [run for run in self._runs if _is_watched(run)]
            for run in running:
                if run.trusted_until <= now:
                    log.warning(
                        "a lease could not be extended in time; its run is stopped",
                        extra={**run.about, "lease": run.lease_id},
                    )
                    run.stop.set(StopReason.LEASE_LOST)
            next_end = min((run.trusted_until for run in running if _is_watched(run)), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_end is None else min(_WATCH_SEC, next_end - now)):
                    await self._runs.until_changed()

    def _take(self, held: Mapping[str, Run], answer: ExtendAnswer, sent_at: float) -> None:
        for outcome in answer.leases:
            run = held.get(outcome.lease_id)
            if run is None or run.lease_id not in self._runs:
                continue
            if outcome.outcome == "lost":
                if not run.reported.is_set():  # else its report may have ended it just now
                    log.warning("a lease was lost", extra={**run.about, "lease": run.lease_id})
                run.lose()
                continue
            self._trust(run, sent_at)
            if outcome.outcome == "cancel":
                run.stop.set(StopReason.CANCELLED)
        self._runs.changed()

    def _trust(self, run: Run, sent_at: float) -> None:
        run.trusted_until = max(run.trusted_until, sent_at + run.ttl_sec - margin_sec(run.ttl_sec))
        if run.trusted_until - self._now() > self._interval_sec([run]):
            run.confirmed.set()

    async def _until_due(self, last_sent_at: float) -> None:
        """Wait until there are leases and it is time to extend them."""
        while True:
            held = self._held()
            if held and self._urgent:
                return
            due_in = last_sent_at + self._interval_sec(held) - self._now()
            if held and due_in <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due_in if held else None):
                    await self._runs.until_changed()

    def _held(self) -> list[Run]:
        """What has to be extended: all leases of this daemon, those whose report is not delivered yet too."""
        return [run for run in self._runs if run.task is not None and not run.lost]

    def _interval_sec(self, runs: Iterable[Run]) -> float:
        return min([self._pace.extend_sec, *(run.ttl_sec / 4 for run in runs)])


def _is_watched(run: Run) -> bool:
    return run.confirmed.is_set() and not run.stop.lost.is_set() and not run.reported.is_set()
