"""A registered worker at work: claiming, extending, watching the clock and delivering, side by side.

They are loops of their own with connections of their own: none waits for another. What they share is `Runs`, the leases
of this worker.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import ExtendAnswer, LeasedTask
from bloom.telemetry.tracing import sane_traceparent
from bloom.worker.board import BoardWatch, Measure, measure
from bloom.worker.calls import WorkerCalls
from bloom.worker.claiming import Claiming
from bloom.worker.completion import hand_back
from bloom.worker.config import LimitSettings
from bloom.worker.delivery import UPLOADS_AT_ONCE, Delivery
from bloom.worker.executors.interface import Executor, RunTask, StopReason
from bloom.worker.fitness import Fitness
from bloom.worker.keeping import Keeping
from bloom.worker.leftovers import recover
from bloom.worker.options import WorkerOptions, worker_dir
from bloom.worker.reachability import Backoff, Reachability, is_passing
from bloom.worker.rejected import Rejected
from bloom.worker.running import run_lease
from bloom.worker.runs import Run, Runs
from bloom.worker.spool import RunEntry, Spool
from bloom.worker.stopping import Stopping
from bloom.worker.waiting import pause, unless

log = logging.getLogger("bloom.worker")

_FULL_DISK_PAUSE_SEC = 30


async def serve(
    options: WorkerOptions,
    executor: Executor,
    why: str,
    stopping: Stopping,
    *,
    limits: LimitSettings | None = None,
    look: Measure | None = None,
) -> None:
    """Run the daemon in this event loop until `stopping`, with `executor`, which was chosen for the reason `why`. Beyond
    `limits` of the machine, at which it looks by `look`, it takes nothing new.

    The caller holds the lock of the worker directory. Raises RuntimeRefused when the runtime does not want a worker
    like this. What could not be delivered stays in the spool.
    """
    spool = Spool(worker_dir() / "spool")
    async with WorkerCalls(options, Reachability()) as calls:
        leftovers = await recover(spool)
        if not await _register(calls, options, stopping):
            return
        log.info(
            "worker %s: runtime %s, executor %s (%s), slots %d",
            calls.worker_id,
            options.runtime,
            executor.name,
            why,
            options.slots,
        )
        fitness = Fitness(options.pace)
        look = look or partial(measure, worker_dir())
        watch = BoardWatch(limits or LimitSettings(), look, options.pace.board_sec, fitness.fault)
        await watch.look()
        await Work(options, executor, calls, spool, stopping, fitness, watch).go_on(leftovers)


async def _register(calls: WorkerCalls, options: WorkerOptions, stopping: Stopping) -> bool:
    """Register, however long that takes; False when the daemon was stopped before."""
    backoff = Backoff(options.pace)
    while not stopping.asked.is_set():
        try:
            await unless(stopping.asked, calls.register())
        except (RuntimeUnreachable, RuntimeRefused) as error:
            if not is_passing(error):
                raise
            await pause(backoff.pause_sec(error), stopping.asked)
        else:
            return not stopping.asked.is_set()
    return False


class Work:
    """The loops of one daemon and what they share."""

    def __init__(
        self,
        options: WorkerOptions,
        executor: Executor,
        calls: WorkerCalls,
        spool: Spool,
        stopping: Stopping,
        fitness: Fitness,
        watch: BoardWatch,
    ) -> None:
        self._options = options
        self._executor = executor
        self._calls = calls
        self._spool = spool
        self._stopping = stopping
        self._fitness = fitness
        self._watch = watch
        self._runs = runs = Runs(options.slots)
        self._keeping = Keeping(runs, self._extend, options.pace)
        rejected = Rejected(worker_dir() / "rejected")
        self._delivery = Delivery(runs, calls.append, calls.upload, calls.complete, rejected, options.pace)
        self._claiming = Claiming(
            runs, fitness, watch, calls.claim, self._tell, self._take, stopping.asked, options.pace
        )
        self._tasks = asyncio.TaskGroup()
        self._following: set[asyncio.Task[None]] = set()

    async def go_on(self, leftovers: list[Run]) -> None:
        """Work until stopped, then end what runs, as far as the grace allows, and deliver what it left."""
        async with self._tasks as tasks:
            forever = [
                tasks.create_task(self._keeping.extend_forever()),
                tasks.create_task(self._keeping.watch_forever()),
                tasks.create_task(self._delivery.complete_forever()),
                *(tasks.create_task(self._delivery.upload_forever()) for _ in range(UPLOADS_AT_ONCE)),
                tasks.create_task(self._watch.look_forever()),
            ]
            for run in leftovers:
                self._runs.add(run)
                self._follow(run)
            claiming = tasks.create_task(self._claiming.claim_until_stopped())
            await self._stopping.asked.wait()
            await claiming
            await self._end_runs()
            await self._deliver_rest()
            for task in (*forever, *self._following):
                task.cancel()
        for run in self._runs:
            run.spooled.close()

    async def _take(self, leased: LeasedTask, sent_at: float) -> None:
        """Begin a run in a free slot; hand the lease back when there is none, or the daemon is to take nothing new."""
        lease, task = leased.lease, leased.task
        entry = RunEntry(task_id=lease.task_id, lease_id=lease.id, worker_id=lease.worker_id)
        try:
            spooled = await asyncio.to_thread(self._spool.open_run, entry)
        except OSError as error:
            log.error("the spool takes no run (%s); claiming pauses", error.strerror, extra={"task": lease.task_id})
            with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
                await self._calls.complete(entry.worker_id, [hand_back(entry, "the worker's disk takes no run")])
            await pause(_FULL_DISK_PAUSE_SEC, self._stopping.asked)
            return
        run_task = RunTask(
            task_id=task.id,
            lease_id=lease.id,
            context_id=task.context_id,
            agent_slug=task.agent_slug,
            prompt=task.prompt,
            context_hints=task.context_hints,
            timeout_sec=task.policy.timeout_sec,
            budget=task.policy.budget,
            desired_format=task.desired_format,
            attempt=task.attempts,
            output_path=spooled.output_path,
            request_id=task.request_id,
            traceparent=sane_traceparent(task.traceparent),
        )
        run = Run(spooled, run_task, lease.ttl_seconds)
        if self._runs.free == 0 or self._stopping.asked.is_set() or self._watch.pressed:
            run.stop.set(StopReason.SHUTDOWN)
        self._runs.add(run)
        self._keeping.granted(run, sent_at)
        self._tasks.create_task(self._run(run, run_task))
        self._follow(run)

    async def _extend(self, lease_ids: Sequence[str], timeout_sec: float) -> ExtendAnswer:
        return await self._calls.extend(lease_ids, timeout_sec, self._watch.board())

    async def _tell(self) -> None:
        with contextlib.suppress(RuntimeUnreachable, RuntimeRefused):
            await self._extend([], self._options.pace.request_sec)

    async def _run(self, run: Run, task: RunTask) -> None:
        await run_lease(run, task, self._executor, self._fitness)
        self._runs.changed()

    def _follow(self, run: Run) -> None:
        following = self._tasks.create_task(self._delivery.follow(run))
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _end_runs(self) -> None:
        grace_sec = self._options.grace_sec
        if (running := self._running()) and grace_sec > 0 and not self._stopping.at_once.is_set():
            log.info(
                "stopping: %d running tasks may go on for %g s; a second signal hands them back now", running, grace_sec
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_sec):
                    await unless(self._stopping.at_once, self._runs.until(lambda: not self._running()))
        for run in self._runs:
            if not run.reported.is_set():
                run.stop.set(StopReason.SHUTDOWN)
        await self._runs.until(lambda: not self._running())

    async def _deliver_rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.pace.farewell_sec):
                await self._runs.until(lambda: not len(self._runs))
        if left := len(self._runs):
            log.warning("stopped; %d reports could not be delivered and wait in the spool for the next start", left)
        else:
            await self._calls.leave()
            log.info("stopped; everything is delivered")

    def _running(self) -> int:
        return sum(not run.reported.is_set() for run in self._runs)
