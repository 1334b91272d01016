"""Calls by which a holder keeps its leases: heartbeat, extend, events. And what happens when they stop coming: the reaper."""

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bloom.audit.model import REAPER
from bloom.base.errors import BloomError, Conflict, NotFound
from bloom.base.ids import LeaseId, TaskId, WorkerId
from bloom.base.text import is_storable
from bloom.db.batcher import Batcher
from bloom.db.hub import QUEUE, notify, task_topic
from bloom.db.pool import Connection, Database
from bloom.tasks.model import FINAL, Lease, LeaseStatus, TaskStatus
from bloom.tasks.schemas import NewEvent
from bloom.tasks.service import measuring, refusals
from bloom.tasks.store import events, leases
from bloom.tasks.store.leases import Expired, Extended, TaskState
from bloom.workers import store as workers
from bloom.workers.schemas import Board
from bloom.workers.service import SignsOfLife, worker_not_found

REAP_BATCH = 500


@dataclass(frozen=True, slots=True)
class HeartbeatCall:
    """A heartbeat for a task; without `lease_id` it speaks for the current lease. `worker_id`, if given, must hold it."""

    task_id: TaskId
    lease_id: LeaseId | None
    worker_id: WorkerId | None = None


@dataclass(frozen=True, slots=True)
class ExtendCall:
    """One worker's wish to keep its leases."""

    worker_id: WorkerId
    lease_ids: Sequence[LeaseId]
    board: Board | None = None


@dataclass(frozen=True, slots=True)
class ExtendedLease:
    """What became of one lease of an ExtendCall."""

    lease_id: LeaseId
    outcome: Literal["held", "cancel", "lost"]
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class EventsCall:
    """Events of one lease, in the order of their `seq`. `worker_id`, if given, must hold it."""

    task_id: TaskId
    lease_id: LeaseId
    events: Sequence[NewEvent]
    worker_id: WorkerId | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """How many events were new, the `seq` that is expected next, and whether a person asked for the end."""

    accepted: int
    next_seq: int
    cancel: bool


class HoldingService:
    """Keeping and losing leases."""

    def __init__(self, database: Database, signs: SignsOfLife) -> None:
        self._database = database
        self._signs = signs
        self._heartbeats: Batcher[HeartbeatCall, Lease] = Batcher("heartbeat", self._heartbeat_many)
        self._extends: Batcher[ExtendCall, Sequence[ExtendedLease]] = Batcher("extend", self._extend_many)
        self._appends: Batcher[EventsCall, Appended] = Batcher("events", self._append_many)

    async def require_held(self, task_id: TaskId, worker_id: WorkerId) -> None:
        """Raise Forbidden unless the worker holds or held a lease of the task; who held one once always did."""
        async with self._database.transaction() as connection:
            if not is_storable(task_id) or not await leases.has_held(connection, task_id, worker_id):
                raise refusals.not_its_task()

    @asynccontextmanager
    async def hidden_from_strangers(
        self, task_id: TaskId, worker_id: WorkerId | None, *, only: Collection[str] | None = None
    ) -> AsyncGenerator[None, None]:
        """Within it, a refusal (`only`: with these codes) tells a worker (None: nobody special) no more than Forbidden of a
        task that it never held.
        """
        try:
            yield
        except (NotFound, Conflict) as refusal:
            if worker_id is not None and (only is None or refusal.code in only):
                await self.require_held(task_id, worker_id)
            raise

    async def heartbeat(self, task_id: TaskId, lease_id: LeaseId | None, *, worker_id: WorkerId | None = None) -> Lease:
        """Renew the lease of a task, which `worker_id`, if given, must hold; a leased task becomes running.

        Raises NotFound, or Conflict: `lease_lost` when it is not the current one, or past its end; `cancelled` when a
        person asked for the end of the task.
        """
        return await self._heartbeats.submit(HeartbeatCall(task_id, lease_id, worker_id))

    async def extend(
        self, worker_id: WorkerId, lease_ids: Sequence[LeaseId], *, board: Board | None = None
    ) -> Sequence[ExtendedLease]:
        """Renew leases of one worker: `held`, `cancel` (renewed, but to be stopped and reported) or `lost` for each. `board`
        is how its machine is doing.

        Raises NotFound for an unregistered worker.
        """
        return await self._extends.submit(ExtendCall(worker_id, lease_ids, board))

    async def append_events(self, call: EventsCall) -> Appended:
        """Store the events of a current lease; those stored before are skipped, and a leased task becomes running.

        Raises NotFound, or Conflict: `lease_lost`; `events_gap` (with `next_seq`) when events before these are missing.
        """
        return await self._appends.submit(call)

    async def page(self, *, status: LeaseStatus | None, before: int | None, limit: int) -> list[Lease]:
        """Up to `limit` leases older than the one with `seq` `before`, newest first."""
        async with self._database.transaction() as connection:
            return await leases.leases_page(connection, status=status, before=before, limit=limit)

    async def reap(self) -> list[Expired]:
        """Take the leases that were not renewed in time: their tasks go back to the queue, or are dead or cancelled."""
        reaped: list[Expired] = []
        while True:
            async with self._database.transaction() as connection:
                expired = await leases.expire_many(connection, actor=REAPER, limit=REAP_BATCH, now=self._database.now)
                # One that dies, too, may let the next task of its concurrency key go.
                await notify(connection, [*([QUEUE] if expired else []), *(task_topic(x.task_id) for x in expired)])
            for lease in expired:
                measuring.lease_expired(lease)
            reaped += expired
            if len(expired) < REAP_BATCH:
                break
        if reaped:
            expiries = {
                lease.worker_id: lease.expires_at for lease in sorted(reaped, key=lambda lease: lease.expires_at)
            }
            async with self._database.transaction() as connection:
                await workers.mark_expired_holders(connection, expiries)
        return reaped

    async def mark_silent_workers(self) -> list[WorkerId]:
        """Mark offline the workers that were silent for too long; returns them."""
        async with self._database.transaction() as connection:
            return await workers.mark_silent(connection, now=self._database.now)

    async def pass_lost_turns(self) -> None:
        """Give a task of each concurrency key its turn where an older release, serving beside this one, has forgotten it."""
        async with self._database.transaction() as connection:
            if await leases.pass_lost_turns(connection):
                await notify(connection, [QUEUE])

    async def promote_due(self) -> float | None:
        """Make tasks whose `run_at` has come claimable and tell those who wait; seconds until the next, None for none."""
        async with self._database.transaction() as connection:
            if await leases.promote_due(connection, now=self._database.now):
                await notify(connection, [QUEUE])
            return await leases.seconds_to_next_due(connection, now=self._database.now)

    async def _heartbeat_many(self, items: Sequence[HeartbeatCall]) -> Sequence[Lease | BloomError]:
        async with self._database.transaction() as connection:
            states = await leases.lock_states(connection, [item.task_id for item in items])
            refused = {n: _holder_refusal(item, states.get(item.task_id)) for n, item in enumerate(items)}
            speaking = {
                n: lease_id
                for n, item in enumerate(items)
                if refused[n] is None and (lease_id := item.lease_id or states[item.task_id].lease_id) is not None
            }
            pairs = [(lease_id, items[n].worker_id) for n, lease_id in speaking.items()]
            extended = await self._extend_locked(connection, pairs)
            heard = {lease.lease.worker_id for lease in extended.values()}
        await self._signs.note(heard)
        outcomes: list[Lease | BloomError] = []
        for n, item in enumerate(items):
            prolonged = extended.get(speaking[n]) if n in speaking else None
            # Another call of the batch may have prolonged the lease for who does hold it.
            if prolonged is None or item.worker_id not in (None, prolonged.lease.worker_id):
                outcomes.append(refused[n] or refusals.lease_lost())
            else:
                outcomes.append(prolonged.lease)
        return outcomes

    async def _extend_many(self, items: Sequence[ExtendCall]) -> Sequence[Sequence[ExtendedLease] | BloomError]:
        async with self._database.transaction() as connection:
            known = await workers.lock(connection, [item.worker_id for item in items])
            boards = {item.worker_id: item.board for item in items if item.board is not None}
            await workers.heard_from_many(connection, known, claims=True, boards=boards, now=self._database.now)
            pairs = [(lease_id, item.worker_id) for item in items for lease_id in item.lease_ids]
            await leases.lock_tasks_of_leases(connection, [lease_id for lease_id, _ in pairs])
            extended = await self._extend_locked(connection, pairs)
        return [
            worker_not_found(item.worker_id)
            if item.worker_id not in known
            else [_extended(lease_id, extended.get(lease_id), item.worker_id) for lease_id in item.lease_ids]
            for item in items
        ]

    async def _append_many(self, items: Sequence[EventsCall]) -> Sequence[Appended | BloomError]:
        outcomes: list[Appended | BloomError] = []
        async with self._database.transaction() as connection:
            states = await leases.lock_states(connection, [item.task_id for item in items])
            current: set[tuple[LeaseId, WorkerId | None]] = set()
            for item in items:
                state = states.get(item.task_id)
                refusal = lease_refusal(item.task_id, item.lease_id, state)
                if refusal is not None or state is None:
                    outcomes.append(refusal or refusals.lease_lost())
                    continue
                if item.worker_id not in (None, state.worker_id):
                    outcomes.append(refusals.lease_lost())
                    continue
                current.add((item.lease_id, item.worker_id))
                outcomes.append(await _append(connection, item, state.cancel_asked, now=self._database.now))
            # Events are a sign of life as good as any: they renew the lease too.
            extended = await self._extend_locked(connection, current)
            await notify(connection, (task_topic(item.task_id) for item in items))
            heard = {lease.lease.worker_id for lease in extended.values()}
        await self._signs.note(heard)
        return outcomes

    async def _extend_locked(
        self, connection: Connection, pairs: Iterable[tuple[LeaseId, WorkerId | None]]
    ) -> dict[LeaseId, Extended]:
        wanted = list(pairs)
        if not wanted:
            return {}
        extended = await leases.extend_many(connection, wanted, now=self._database.now)
        await notify(connection, (task_topic(e.lease.task_id) for e in extended.values() if e.was_leased))
        return extended


async def _append(
    connection: Connection, item: EventsCall, cancel: bool, *, now: datetime | None
) -> Appended | BloomError:
    last = await events.last_seq(connection, item.lease_id)
    ordered = sorted({event.seq: event for event in item.events}.values(), key=lambda event: event.seq)
    new = [event for event in ordered if last is None or event.seq > last]
    expected = (0 if ordered[0].seq == 0 else 1) if last is None else last + 1
    if new and [event.seq for event in new] != list(range(expected, expected + len(new))):
        return Conflict(
            f"Events of a lease come without a gap; the next one is {expected}.", code="events_gap", next_seq=expected
        )
    if new:
        await events.append_many(connection, item.task_id, item.lease_id, new, worker_id=item.worker_id, now=now)
    return Appended(len(new), expected + len(new), cancel)


def lease_refusal(task_id: TaskId, lease_id: LeaseId | None, state: TaskState | None) -> BloomError | None:
    """What a caller is told who speaks for a lease of a (locked) task; None for the current one."""
    if state is None:
        return refusals.task_not_found(task_id)
    if lease_id is not None and lease_id != state.lease_id:
        return refusals.lease_lost()
    if state.task_status is TaskStatus.CANCELLED:
        return refusals.cancelled()
    if state.task_status in FINAL or state.task_status is TaskStatus.QUEUED:
        return refusals.lease_lost() if lease_id is not None else refusals.not_held(state.task_status)
    return None


def _holder_refusal(item: HeartbeatCall, state: TaskState | None) -> BloomError | None:
    refusal = lease_refusal(item.task_id, item.lease_id, state)
    if refusal is None and state is not None and state.cancel_asked:
        return refusals.cancelled()
    return refusal


def _extended(lease_id: LeaseId, extended: Extended | None, worker_id: WorkerId) -> ExtendedLease:
    if extended is None or extended.lease.worker_id != worker_id:
        return ExtendedLease(lease_id, "lost", None)
    return ExtendedLease(lease_id, "cancel" if extended.cancel_asked else "held", extended.lease)
