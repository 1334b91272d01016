"""Claiming tasks: one long poll for all free slots, asked again under the same id until it was answered."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from bloom.base.ids import new_request_id
from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.model import LeaseStatus
from bloom.tasks.schemas import Claim, ClaimAnswer, LeasedTask
from bloom.worker.board import BoardWatch
from bloom.worker.clocks import boot_clock
from bloom.worker.fitness import Fitness
from bloom.worker.options import Pace
from bloom.worker.reachability import Backoff, is_passing
from bloom.worker.runs import Runs
from bloom.worker.waiting import pause, unless

log = logging.getLogger("bloom.worker")

Ask = Callable[[Claim], Coroutine[Any, Any, ClaimAnswer]]
"""Send one claim. Raises RuntimeUnreachable or RuntimeRefused."""

Tell = Callable[[], Coroutine[Any, Any, None]]
"""Tell the runtime that this worker is there, though it claims nothing; raises nothing."""

Take = Callable[[LeasedTask, float], Coroutine[Any, Any, None]]
"""Begin the run of a lease that was granted to a claim first sent at this moment of the daemon's clock."""


class Claiming:
    """Fills the free slots of `runs` until `stopping` is set. `now` is a monotonic clock in seconds."""

    def __init__(
        self,
        runs: Runs,
        fitness: Fitness,
        watch: BoardWatch,
        ask: Ask,
        tell: Tell,
        take: Take,
        stopping: asyncio.Event,
        pace: Pace,
        now: Callable[[], float] = boot_clock,
    ) -> None:
        self._runs = runs
        self._fitness = fitness
        self._watch = watch
        self._ask = ask
        self._tell = tell
        self._take = take
        self._stopping = stopping
        self._pace = pace
        self._now = now
        self._told_at = now() - pace.tell_sec

    async def claim_until_stopped(self) -> None:
        """Claim whenever a slot is free. When stopped, what the claim under way was granted is taken too."""
        while not self._stopping.is_set():
            await unless(self._stopping, self._runs.until(lambda: self._runs.free > 0))
            if self._stopping.is_set():
                return
            if self._watch.pressed or self._fitness.pause_sec():
                await self._claim_nothing()
                continue
            claim = Claim(
                request_id=new_request_id(),
                slots=min(self._runs.free, 32),
                wait_sec=self._pace.wait_sec,
                ttl_seconds=self._pace.ttl_sec,
                board=self._watch.board(),
            )
            # A lease may have been granted to the first of several requests, so it is trusted from there on.
            first_sent_at = self._now()
            answer = await self._ask_until_answered(claim) or await self._settle(claim)
            for leased in answer.leases:
                if leased.lease.status is LeaseStatus.ACTIVE and leased.lease.id not in self._runs:
                    await self._take(leased, first_sent_at)

    async def _claim_nothing(self) -> None:
        """Wait until the machine has room again and the worker is fit, and be heard of meanwhile."""
        while not self._stopping.is_set():
            wait_sec = self._pace.board_sec if self._watch.pressed else self._fitness.pause_sec()
            if not wait_sec:
                return
            if (silent_sec := self._now() - self._told_at) >= self._pace.tell_sec:
                await unless(self._stopping, self._tell())
                self._told_at, silent_sec = self._now(), 0.0
            await pause(min(wait_sec, self._pace.tell_sec - silent_sec), self._stopping)

    async def _ask_until_answered(self, claim: Claim) -> ClaimAnswer | None:
        """The answer to `claim`, however often it has to be sent; None when the daemon is to stop before."""
        backoff = Backoff(self._pace)
        while not self._stopping.is_set():
            try:
                return await unless(self._stopping, self._ask(claim))
            except RuntimeUnreachable as error:
                await pause(backoff.pause_sec(error), self._stopping)
            except RuntimeRefused as error:
                if not is_passing(error):
                    log.error(
                        "the runtime refuses this worker's claims (%s)", error.message, extra={"code": error.code}
                    )
                    await pause(self._pace.refused_sec, self._stopping)
                else:
                    await pause(backoff.pause_sec(error), self._stopping)
        return None

    async def _settle(self, claim: Claim) -> ClaimAnswer:
        """What was granted to a claim whose answer nobody waited for: asked under the same id, without waiting."""
        try:
            return await self._ask(claim.model_copy(update={"wait_sec": 0}))
        except (RuntimeUnreachable, RuntimeRefused):
            return ClaimAnswer(leases=[])
