"""Claims that wait for a task: who of them looks when there is news of the queue.

A few are all woken: that costs less than finding out who is meant. Of many, only those look that the tasks at the head of the
queue could go to, and while nothing is there for any of them they look together, every three seconds, not each by itself.
So a large idle fleet costs a few queries per second, and a new task does not wake it all.
"""

import asyncio
import heapq
import itertools
import logging
from collections.abc import Iterable, Iterator
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

LOOK_APART_SEC = 0.025
"""Looks for many are at least so far apart: tasks that come meanwhile share one, and claims that it wakes share a batch."""

GATHER_SEC = 3.0

_log = logging.getLogger(__name__)


class WaitingClaim:
    """One claim, from its arrival to its answer. Use as a context manager."""

    def __init__(self, watch: "ClaimWatch", worker_id: WorkerId) -> None:
        self.worker_id = worker_id
        self.labels: frozenset[str] | None = None
        """What its worker carries; None until a first look has told."""
        self.arrival = 0
        """Its place in the order of all that ever came."""
        self.woken_at: float | None = None
        """When it was last woken, by the clock of the loop; None since it last waited for nothing."""
        self._watch = watch
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let it look."""
        if not self._news.is_set():
            self.woken_at = asyncio.get_running_loop().time()
            self._news.set()

    def tell_labels(self, labels: frozenset[str]) -> None:
        """What its worker carries, as its look has told."""
        self._watch.claims.tell_labels(self, labels)

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
        self._watch.claims.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._watch.claims.remove(self)


class WaitingClaims:
    """Claims by what their workers carry, so that finding some for a task does not walk over all of them."""

    def __init__(self) -> None:
        self._carrying: dict[frozenset[str] | None, dict[WaitingClaim, None]] = {None: {}}
        self._of_worker: dict[WorkerId, WaitingClaim] = {}
        self._count = 0
        self._arrivals = itertools.count(1)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[WaitingClaim]:
        return itertools.chain.from_iterable(self._carrying.values())

    @property
    def unknown(self) -> Iterable[WaitingClaim]:
        """Those that wait for their first look: what they could take is not known."""
        return self._carrying[None]

    def add(self, claim: WaitingClaim) -> None:
        """One more."""
        claim.arrival = next(self._arrivals)
        self._carrying.setdefault(claim.labels, {})[claim] = None
        self._of_worker[claim.worker_id] = claim
        self._count += 1

    def tell_labels(self, claim: WaitingClaim, labels: frozenset[str]) -> None:
        """Its worker carries these; nothing when that was known."""
        if claim.labels != labels:
            self._leave(claim)
            claim.labels = labels
            self._carrying.setdefault(labels, {})[claim] = None

    def remove(self, claim: WaitingClaim) -> None:
        """One less."""
        self._leave(claim)
        if self._of_worker.get(claim.worker_id) is claim:
            del self._of_worker[claim.worker_id]
        self._count -= 1

    def of_worker(self, worker_id: WorkerId) -> WaitingClaim | None:
        """The latest of a worker."""
        return self._of_worker.get(worker_id)

    def able(self, labels: frozenset[str]) -> Iterator[WaitingClaim]:
        """Those that could take a task which asks for `labels`, about in the order of their arrival."""
        carrying = [group for carried, group in self._carrying.items() if carried is not None and labels <= carried]
        return heapq.merge(*carrying, key=lambda claim: claim.arrival)

    def _leave(self, claim: WaitingClaim) -> None:
        group = self._carrying[claim.labels]
        del group[claim]
        if not group and claim.labels is not None:
            del self._carrying[claim.labels]


class ClaimWatch:
    """The claims that wait in this process."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self._hub = hub
        self.claims = WaitingClaims()
        self._all_unserved = False

    @property
    def many(self) -> bool:
        """Whether so many wait that only those look which are meant; the watch then looks for all, also again."""
        return len(self.claims) > FEW

    @property
    def quiet(self) -> bool:
        """Whether many wait, and the last look found nothing for any of them."""
        return self._all_unserved and self.many

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
                looks_again = pause_sec < LOOK_EVERY_SEC
                # Those of many that were meant may have left it to the few that are left.
                chosen: Iterable[WaitingClaim] = tuple(self.claims) if heard or looks_again else ()
                look_again_sec = LOOK_EVERY_SEC
                if self.many:
                    chosen = await self._wanted()
                    self._all_unserved = all(claim.labels is None for claim in chosen)
                    if was_quiet and self._all_unserved:
                        chosen = ()  # they are about to look together
                    if chosen:
                        look_again_sec = min(LOOK_AGAIN_SEC if heard else 2 * pause_sec, LOOK_EVERY_SEC)
                pause_sec = look_again_sec
                for claim in chosen:
                    claim.wake()
                if self.many:
                    await asyncio.sleep(LOOK_APART_SEC)

    async def _wanted(self) -> set[WaitingClaim]:
        """Those that should look now; all of them when the database does not say."""
        try:
            async with self._database.transaction() as connection:
                wanted = await leases.wanted(connection)
        except BloomError as error:
            _log.warning("the head of the queue was not read", extra={"code": error.code})
            return set(self.claims)
        return choose(wanted, self.claims)


def choose(wanted: Iterable[Wanted], claims: WaitingClaims) -> set[WaitingClaim]:
    """For each task the first claim that could take it and is not meant already, and that of the worker of its context. While
    that leaves a task without any, also all claims that are not known yet: their first look may have come before the task.
    """
    chosen: set[WaitingClaim] = set()
    able: dict[frozenset[str], Iterator[WaitingClaim]] = {}
    for task in wanted:
        if task.last_worker_id is not None and (last := claims.of_worker(task.last_worker_id)) is not None:
            chosen.add(last)
        if task.labels not in able:
            able[task.labels] = claims.able(task.labels)
        meant = next((claim for claim in able[task.labels] if claim not in chosen), None)
        if meant is None:
            chosen.update(claims.unknown)
        else:
            chosen.add(meant)
    return chosen
