"""The leases of this worker, from the claim until their report is delivered."""

import asyncio
from collections.abc import Callable, Iterator

from bloom.worker.executors.interface import RunTask, StopReason, StopSignal
from bloom.worker.spool import SpooledRun


class Run:
    """One lease of this worker.

    `task` is None for what a daemon before this one has left. `confirmed`: the lease was surely this worker's when it
    was last asked, so the run may start; `trusted_until` is the end of the trust window by the daemon's clock.
    `reported`: the run is over; `has_report`: the spool holds its completion. `lost`: the runtime said that the lease
    is no longer this worker's. `news`: there is something new to deliver. `mismatches`: how often the runtime found that
    it had not received the output that the completion names.
    """

    def __init__(self, spooled: SpooledRun, task: RunTask | None, ttl_sec: int) -> None:
        self.spooled = spooled
        self.task = task
        self.ttl_sec = ttl_sec
        self.trusted_until = 0.0
        self.stop = StopSignal()
        self.confirmed = asyncio.Event()
        self.reported = asyncio.Event()
        self.news = asyncio.Event()
        self.has_report = False
        self.mismatches = 0
        self.lost = False

    @property
    def lease_id(self) -> str:
        """The id of the lease."""
        return self.spooled.entry.lease_id

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.spooled.entry.task_id

    @property
    def about(self) -> dict[str, str]:
        """What each line of the log about this run names."""
        about = {"task": self.task_id}
        if self.task is not None and self.task.request_id is not None:
            about["request_id"] = self.task.request_id
        return about

    def lose(self) -> None:
        """The runtime says that this lease is no longer ours: nothing of it may go on."""
        self.lost = True
        self.stop.set(StopReason.LEASE_LOST)
        self.news.set()


class Runs:
    """Which leases this worker has, and how many slots are left.

    A slot is taken until the runtime knows of the run's end: before that it would grant nothing in its place.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._runs: dict[str, Run] = {}
        self._waiting: set[asyncio.Event] = set()

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._runs

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def free(self) -> int:
        """How many more leases this worker can take."""
        taken = sum(not (run.lost and run.reported.is_set()) for run in self._runs.values())
        return max(0, self._slots - taken)

    def add(self, run: Run) -> None:
        """A lease was granted, or found in the spool."""
        self._runs[run.lease_id] = run
        self.changed()

    def end(self, run: Run) -> None:
        """The runtime knows of this run's end."""
        self._runs.pop(run.lease_id, None)
        self.changed()

    def changed(self) -> None:
        """Wake those who wait for a change of these runs or of one of them."""
        for event in self._waiting:
            event.set()

    async def until_changed(self) -> None:
        """Wait for the next change."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, which looks at these runs, holds."""
        while not condition():
            await self.until_changed()
