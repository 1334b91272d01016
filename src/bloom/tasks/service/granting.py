"""Granting leases: one named task for the compatible route, the next ones for a worker's claim."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bloom.audit.model import worker_actor
from bloom.base.errors import BloomError
from bloom.base.ids import TaskId, WorkerId, new_lease_id
from bloom.db.batcher import Batcher
from bloom.db.hub import QUEUE, Hub, notify, task_topic
from bloom.db.pool import Connection, Database
from bloom.tasks.model import Lease, Task, TaskStatus
from bloom.tasks.routing import Candidate, Seat, assign, choose
from bloom.tasks.service import measuring, refusals
from bloom.tasks.service.waiting import ClaimWatch
from bloom.tasks.store import leases, tasks
from bloom.tasks.store.leases import Grant, LabelGroup, Leasable
from bloom.telemetry import metrics
from bloom.workers import store as workers
from bloom.workers.model import Worker, WorkerStatus
from bloom.workers.schemas import Board
from bloom.workers.service import worker_not_found

STICKY_RECHECK_SEC = 1.1
"""A task waits up to one second for the worker of its context; after that anybody who found nothing looks again."""

MAX_CHOICES = 3
"""How often the router chooses anew when others filled the worker that it chose."""

KEEPS_OUT = frozenset({WorkerStatus.SYNCING, WorkerStatus.ERROR})
"""A worker that says this of itself gets nothing, though it claims; an offline or unknown one is online by its claim."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A wish to lease one task to a named worker, or to whomever the router chooses."""

    task_id: TaskId
    worker_id: WorkerId | None
    ttl_seconds: int
    actor: str


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A worker's wish for up to `slots` tasks. `wait_sec`: how long it will wait if there is none; `key`: whose key asks, for
    the audit log.
    """

    worker_id: WorkerId
    request_id: str
    slots: int
    ttl_seconds: int
    wait_sec: float
    key: str | None = None
    board: Board | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease with its task, and the worker where the caller wants to see it. `since`: when the task could first be claimed;
    None for a lease that was granted before.
    """

    lease: Lease
    task: Task
    since: datetime | None = None
    worker: Worker | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim got, and the labels of its worker. `look_again`: a task may be waiting for another worker for a second,
    and the watch does not look again for all.
    """

    granted: Sequence[Granted]
    labels: frozenset[str]
    look_again: bool = False


class GrantService:
    """Who gets which task."""

    def __init__(self, database: Database, hub: Hub) -> None:
        self._database = database
        self.watch = ClaimWatch(database, hub)
        self._lease_calls: Batcher[LeaseRequest, Granted] = Batcher("lease", self._lease_many)
        self._claims: Batcher[ClaimRequest, Claimed] = Batcher("claim", self._claim_many)

    async def lease(self, request: LeaseRequest) -> Granted:
        """Lease one task.

        Raises NotFound (task or named worker), Conflict (`not_queued`, `not_due`, `busy`), Unavailable (`no_free_worker`,
        `worker_not_free`).
        """
        return await self._lease_calls.submit(request)

    async def claim(self, request: ClaimRequest) -> Sequence[Granted]:
        """Lease up to `slots` tasks to a worker; waits up to `wait_sec` seconds for the first. The same `request_id` again
        returns the same leases. Can be cancelled at any time; what was granted unseen is found again by the `request_id`.

        Raises NotFound for an unregistered worker.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.wait_sec
        with self.watch.enter(request.worker_id) as waiting:
            while True:
                await waiting.gather(deadline)
                left = max(deadline - loop.time(), 0)
                claimed = await self._claims.submit(replace(request, wait_sec=left))
                if claimed.granted or left <= 0:
                    _count(claimed, waiting.woken_at)
                    return claimed.granted
                waiting.tell_labels(claimed.labels)
                recheck_at = loop.time() + STICKY_RECHECK_SEC
                woken = await waiting.wait(min(deadline, recheck_at) if claimed.look_again else deadline)
                if not woken and loop.time() >= deadline:
                    _count(claimed, None)
                    return ()  # nothing was heard since it looked, and its next claim looks again

    # --- one named task -----------------------------------------------------------------------------------------------

    async def _lease_many(self, items: Sequence[LeaseRequest]) -> Sequence[Granted | BloomError]:
        outcomes: list[Granted | BloomError | None] = [None] * len(items)
        async with self._database.transaction() as connection:
            pending = list(range(len(items)))
            for _ in range(MAX_CHOICES):
                pending = await self._lease_round(connection, items, pending, outcomes)
                if not pending:
                    break
            topics = [
                task_topic(item.task_id) for item, got in zip(items, outcomes, strict=True) if isinstance(got, Granted)
            ]
            await notify(connection, topics)
        _measure(outcome for outcome in outcomes if isinstance(outcome, Granted))
        return [refusals.no_free_worker() if outcome is None else outcome for outcome in outcomes]

    async def _lease_round(
        self,
        connection: Connection,
        items: Sequence[LeaseRequest],
        pending: Sequence[int],
        outcomes: list[Granted | BloomError | None],
    ) -> list[int]:
        """Choose without locks, lock, check, grant. Returns the items whose chosen worker was filled by others meanwhile."""
        looked_at = await leases.leasable(connection, [items[n].task_id for n in pending])
        if any(task.status is TaskStatus.QUEUED and not task.due for task in looked_at.values()):
            await leases.promote_due(connection, now=self._database.now)
            looked_at = await leases.leasable(connection, [items[n].task_id for n in pending])
        chosen: dict[int, WorkerId] = {}
        routed = [n for n in pending if items[n].worker_id is None]
        seats = [_seat(worker) for worker in await workers.routable(connection)] if routed else []
        for n in pending:
            task = looked_at.get(items[n].task_id)
            refusal = _refusal(items[n].task_id, task)
            if refusal is not None or task is None:
                outcomes[n] = refusal
            elif (named := items[n].worker_id) is not None:
                chosen[n] = named
            elif (seat := choose(task.candidate, seats)) is not None:
                seat.free -= 1
                chosen[n] = seat.worker_id
            else:
                outcomes[n] = refusals.no_free_worker()
        if not chosen:
            return []
        locked = await workers.lock(connection, chosen.values())
        await leases.lock_tasks(connection, [items[n].task_id for n in chosen])
        states = await leases.leasable(connection, [items[n].task_id for n in chosen])
        free = {worker_id: worker.free_slots for worker_id, worker in locked.items()}
        grants: dict[int, Grant] = {}
        taken: set[TaskId] = set()
        again: list[int] = []
        for n, worker_id in chosen.items():
            item, state = items[n], states.get(items[n].task_id)
            refusal = _refusal(item.task_id, state)
            if refusal is None and item.task_id in taken:
                refusal = refusals.not_queued(TaskStatus.LEASED)
            if refusal is None and state is not None:
                refusal = _worker_refusal(worker_id, locked.get(worker_id), free.get(worker_id, 0), state.candidate)
                if refusal is not None and item.worker_id is None:
                    again.append(n)
                    continue
            if refusal is not None:
                outcomes[n] = refusal
                continue
            taken.add(item.task_id)
            free[worker_id] -= 1
            grants[n] = Grant(item.task_id, new_lease_id(), worker_id, item.ttl_seconds, None, item.actor)
        granted = await leases.grant_many(connection, list(grants.values()), now=self._database.now) if grants else {}
        for n, grant in grants.items():
            lease, task, since = granted[grant.task_id]
            worker = locked[grant.worker_id]
            holds = worker.max_concurrency - free[grant.worker_id]
            outcomes[n] = Granted(lease, task, since, replace(worker, active_leases=holds))
        return again

    # --- the next tasks of a worker -----------------------------------------------------------------------------------

    async def _claim_many(self, items: Sequence[ClaimRequest]) -> Sequence[Claimed | BloomError]:
        async with self._database.transaction() as connection:
            await leases.promote_due(connection, now=self._database.now)
            locked = await workers.lock(connection, [item.worker_id for item in items])
            boards = {item.worker_id: item.board for item in items if item.board is not None}
            await workers.heard_from_many(connection, locked, claims=True, boards=boards, now=self._database.now)
            replayed = await self._replay(connection, items)
            first: dict[tuple[WorkerId, str], int] = {}
            for n, item in enumerate(items):
                first.setdefault((item.worker_id, item.request_id), n)
            seats = {
                n: Seat(item.worker_id, frozenset(worker.labels), item.slots, item.wait_sec)
                for n, item in enumerate(items)
                if n not in replayed
                and (worker := locked.get(item.worker_id)) is not None
                and not worker.draining
                and worker.status not in KEEPS_OUT
                and first[item.worker_id, item.request_id] == n
            }
            _bound_by_free_slots(list(seats.values()), locked)
            grants = await self._seat(connection, items, seats)
            granted = (
                await leases.grant_many(connection, [grant for _, grant in grants], now=self._database.now)
                if grants
                else {}
            )
            fresh = (
                len(grants) < len(seats)
                and not self.watch.many
                and await leases.any_fresh_claimable(connection, now=self._database.now)
            )
            got: dict[int, list[Granted]] = {}
            for n, grant in grants:
                got.setdefault(n, []).append(Granted(*granted[grant.task_id]))
            waits: dict[WorkerId, float | None] = {}
            for n, item in enumerate(items):
                if item.worker_id in locked:
                    waits[item.worker_id] = None if n in got or n in replayed or item.wait_sec <= 0 else item.wait_sec
            await workers.set_polling_many(connection, waits, now=self._database.now)
            await notify(connection, [task_topic(grant.task_id) for _, grant in grants])
        _measure(item for some in got.values() for item in some)
        outcomes: list[Claimed | BloomError] = []
        for n, item in enumerate(items):
            if item.worker_id not in locked:
                outcomes.append(worker_not_found(item.worker_id))
            else:
                answer = replayed[n] if n in replayed else got.get(first[item.worker_id, item.request_id], [])
                outcomes.append(Claimed(answer, frozenset(locked[item.worker_id].labels), look_again=fresh))
        return outcomes

    async def _replay(self, connection: Connection, items: Sequence[ClaimRequest]) -> dict[int, list[Granted]]:
        """The answers of claims that were answered before (their answer was lost on the way)."""
        requests: dict[WorkerId, list[str]] = {}
        for item in items:
            requests.setdefault(item.worker_id, []).append(item.request_id)
        known = await leases.leases_of_requests(connection, requests)
        if not known:
            return {}
        found = await tasks.by_ids(connection, [lease.task_id for given in known.values() for lease in given])
        return {
            n: [Granted(lease, found[lease.task_id]) for lease in known[item.worker_id, item.request_id]]
            for n, item in enumerate(items)
            if (item.worker_id, item.request_id) in known
        }

    async def _seat(
        self, connection: Connection, items: Sequence[ClaimRequest], seats: dict[int, Seat]
    ) -> list[tuple[int, Grant]]:
        """Lock candidates and seat them until no seat is free or the queue has nothing more for them."""
        grants: list[tuple[int, Grant]] = []
        number = {id(seat): n for n, seat in seats.items()}
        seen: set[TaskId] = set()
        unseated = False
        while free := [seat for seat in seats.values() if seat.free > 0]:
            slots: dict[frozenset[str], int] = {}
            for seat in free:
                slots[seat.labels] = slots.get(seat.labels, 0) + seat.free
            found, others = await leases.lock_candidates(
                connection,
                [LabelGroup(labels, count) for labels, count in slots.items()],
                workers=[seat.worker_id for seat in free],
                seen=seen,
                now=self._database.now,
            )
            if not found:
                break
            seen.update(candidate.task_id for candidate in found)
            pairs = assign(found, free)
            unseated = unseated or others or len(pairs) < len(found)
            for candidate, seat in pairs:
                item = items[number[id(seat)]]
                actor = worker_actor(item.worker_id)
                grant = Grant(
                    candidate.task_id,
                    new_lease_id(),
                    item.worker_id,
                    item.ttl_seconds,
                    item.request_id,
                    actor,
                    item.key,
                )
                grants.append((number[id(seat)], grant))
        if unseated:
            # Others passed over these while they were locked here: let them look again.
            await notify(connection, [QUEUE])
        return grants


def _measure(granted: Iterable[Granted]) -> None:
    for item in granted:
        if item.since is not None:
            measuring.lease_granted(item.lease, item.task, item.since)


def _count(claimed: Claimed, woken_at: float | None) -> None:
    """Count a claim that is answered; `woken_at`: when news woke it, by the clock of the loop."""
    metrics.CLAIMS.labels("granted" if claimed.granted else "empty").inc()
    if claimed.granted and woken_at is not None:
        metrics.WAKEUP_SECONDS.observe(asyncio.get_running_loop().time() - woken_at)


def _seat(worker: Worker) -> Seat:
    return Seat(worker.id, frozenset(worker.labels), worker.free_slots)


def _bound_by_free_slots(seats: Sequence[Seat], locked: dict[WorkerId, Worker]) -> None:
    """Several claims of one worker in one batch share its free slots."""
    free = {worker_id: worker.free_slots for worker_id, worker in locked.items()}
    for seat in seats:
        seat.free = min(seat.free, free[seat.worker_id])
        free[seat.worker_id] -= seat.free


def _refusal(task_id: TaskId, state: Leasable | None) -> BloomError | None:
    if state is None:
        return refusals.task_not_found(task_id)
    if state.status is not TaskStatus.QUEUED:
        return refusals.not_queued(state.status)
    if not state.due:
        return refusals.not_due()
    return refusals.busy() if state.busy else None


def _worker_refusal(worker_id: WorkerId, worker: Worker | None, free: int, task: Candidate) -> BloomError | None:
    if worker is None:
        return worker_not_found(worker_id)
    if worker.status is not WorkerStatus.ONLINE:
        return refusals.worker_not_free(worker_id, f"is {worker.status}")
    if worker.draining:
        return refusals.worker_not_free(worker_id, "is draining")
    if free <= 0:
        return refusals.worker_not_free(worker_id, f"has no free slot (max_concurrency {worker.max_concurrency})")
    if not set(task.labels) <= set(worker.labels):
        return refusals.worker_not_free(worker_id, "does not carry every label that the task asks for")
    return None
