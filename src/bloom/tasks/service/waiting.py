"""Claims that wait for a task: who of them looks when there is news of the queue.

A few are all woken: that costs less than finding out who is meant. Of many, only those look that the tasks at the head of the
queue could go to, and while nothing is there for any of them they look together, every three seconds, not each by itself.
So a large idle fleet costs a few queries per second, and a new task does not wake it all.
"""

import asyncio
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from bloom.base.errors import BloomError
from bloom.base.ids import WorkerId
from bloom.db.hub import QUEUE, Hub
from bloom.db.pool import Database
from bloom.tasks.store import leases
from bloom.tasks.store.leases import Wanted

FEW = 64
LOOK_EVERY_SEC = 5.0
"""The fallback for lost news."""

LOOK_AGAIN_SEC = 0.05
"""After claims were woken, for those that the tasks behind could go to; twice as long each time that this changes nothing."""

GATHER_SEC = 3.0

_log = logging.getLogger(__name__)


class WaitingClaim:
    """One claim, from its arrival to its answer. Use as a context manager."""

    def __init__(self, watch: "ClaimWatch", worker_id: WorkerId) -> None:
        self.worker_id = worker_id
        self.labels: frozenset[str] | None = None
        """What its worker carries; None until a first look has told."""
        self.woken_at: float | None = None
        """When it was last woken, by the clock of the loop; None since it last waited for nothing."""
        self._watch = watch
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let it look."""
        if not self._news.is_set():
            self.woken_at = asyncio.get_running_loop().time()
            self._news.set()

    async def wait(self, until: float) -> bool:
        """True as soon as it is woken, also when it was since the last call; False at the loop's time `until`."""
        try:
            async with asyncio.timeout_at(until):
                await self._news.wait()
        except TimeoutError:
            self.woken_at = None
            return False
        self._news.clear()
        return True

    async def gather(self, deadline: float) -> None:
        """Where many wait and nothing is there for them: wait for news or until all look together, at most until `deadline`."""
        if self._watch.quiet:
            # A moment, not a length of time: all of them then wake in one turn of the loop, and share a batch.
            together = (asyncio.get_running_loop().time() // GATHER_SEC + 1) * GATHER_SEC
            await self.wait(min(together, deadline))

    def __enter__(self) -> Self:
        self._watch.claims[self] = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        del self._watch.claims[self]


class ClaimWatch:
    """The claims that wait in this process."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub
        self.claims: dict[WaitingClaim, None] = {}
        """In the order of their arrival."""
        self._all_unserved = False

    @property
    def quiet(self) -> bool:
        """Whether many wait, and the last look found nothing for any of them."""
        return self._all_unserved and len(self.claims) > FEW

    def enter(self, worker_id: WorkerId) -> WaitingClaim:
        """A claim of a worker. What is announced after entering it is not missed."""
        return WaitingClaim(self, worker_id)

    async def run(self) -> None:
        """Wake who is meant, until cancelled."""
        with self._hub.subscribe(QUEUE) as news:
            pause_sec = LOOK_EVERY_SEC
            while True:
                heard = await news.wait(pause_sec)
                was_quiet = self.quiet and not heard
                self._all_unserved = was_quiet
                chosen: Iterable[WaitingClaim] = tuple(self.claims) if heard else ()
                if len(self.claims) > FEW:
                    chosen = await self._wanted()
                    self._all_unserved = all(claim.labels is None for claim in chosen)
                    if was_quiet and self._all_unserved:
                        chosen = ()  # they are about to look together
                pause_sec = (
                    min(LOOK_AGAIN_SEC if heard else 2 * pause_sec, LOOK_EVERY_SEC) if chosen else LOOK_EVERY_SEC
                )
                for claim in chosen:
                    claim.wake()

    async def _wanted(self) -> set[WaitingClaim]:
        """Those that should look now; all of them when the database does not say."""
        try:
            async with self._database.transaction() as connection:
                wanted = await leases.wanted(connection)
        except BloomError as error:
            _log.warning("the head of the queue was not read", extra={"code": error.code})
            return set(self.claims)
        return choose(wanted, self.claims)


def choose(wanted: Iterable[Wanted], claims: Iterable[WaitingClaim]) -> set[WaitingClaim]:
    """For each task the first claim that could take it and is not meant already, and that of the worker of its context; and
    all claims of which too little is known.
    """
    waiting = tuple(claims)
    by_worker = {claim.worker_id: claim for claim in waiting}
    chosen = {claim for claim in waiting if claim.labels is None}
    left: dict[frozenset[str], list[WaitingClaim]] = {}
    for task in wanted:
        if task.last_worker_id is not None and (last := by_worker.get(task.last_worker_id)) is not None:
            chosen.add(last)
        if task.labels not in left:
            able = [claim for claim in waiting if claim.labels is not None and task.labels <= claim.labels]
            left[task.labels] = able[::-1]
        queue = left[task.labels]
        while queue and queue[-1] in chosen:
            queue.pop()
        if queue:
            chosen.add(queue.pop())
    return chosen
