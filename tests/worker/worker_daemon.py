"""A worker daemon inside the test's event loop, with a scripted executor in place of child processes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.stubs.runtime import PATIENCE_SEC, FakeRuntime

from bloom.worker.board import Measure
from bloom.worker.config import LimitSettings
from bloom.worker.executors.interface import Emit, Report, RunEvent, RunTask, StopSignal
from bloom.worker.options import Pace, WorkerOptions
from bloom.worker.stopping import Stopping
from bloom.worker.work import serve

PACE = Pace(retry_first_sec=0.01, retry_max_sec=0.05, extend_sec=0.05, refused_sec=0.05, request_sec=5, farewell_sec=5)

Script = Callable[[RunTask, Emit, StopSignal], Awaitable[Report]]


def success(output: str) -> Report:
    """A report of a run that went well."""
    return Report("success", output, metrics={"duration_ms": 1, "tokens_used": None})


async def echo(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
    """A run that ends at once."""
    await emit(RunEvent("text", {"text": task.prompt}))
    return success(task.prompt)


async def run_until_stopped(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
    """A run that goes on until it is stopped."""
    await stop.event.wait()
    return Report("error", None, "stopped", str(stop.reason), metrics={"duration_ms": 1, "tokens_used": None})


class ScriptedExecutor:
    """Runs `script`; remembers what it ran, how each run was stopped, and how many ran at once."""

    name = "scripted"

    def __init__(self, script: Script) -> None:
        self._script = script
        self.tasks: list[RunTask] = []
        self.stops: list[StopSignal] = []
        self.running = 0
        self.most_running = 0
        self._changed = asyncio.Condition()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition`, which is looked at when a run begins or ends, holds."""
        async with asyncio.timeout(PATIENCE_SEC), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def run(self, task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        """See Executor."""
        self.tasks.append(task)
        self.stops.append(stop)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self._notify()
        try:
            return await self._script(task, emit, stop)
        finally:
            self.running -= 1
            await self._notify()


class DaemonUnderTest:
    """A daemon at work in the worker directory of `BLOOM_WORKER_DIR`."""

    def __init__(
        self, options: WorkerOptions, executor: ScriptedExecutor, limits: LimitSettings, look: Measure | None
    ) -> None:
        self.stopping = Stopping()
        serving = serve(options, executor, "for a test", self.stopping, limits=limits, look=look)
        self._serving = asyncio.create_task(serving)

    async def ended(self) -> None:
        """Wait until the daemon has ended by itself; raises what it raised."""
        async with asyncio.timeout(PATIENCE_SEC):
            await self._serving

    async def kill(self) -> None:
        """End it wherever it is, as far as a task can be killed."""
        self._serving.cancel()
        await asyncio.wait({self._serving})


def options_for(runtime: FakeRuntime, *, slots: int = 1, grace_sec: float = 0, pace: Pace = PACE) -> WorkerOptions:
    """Options of a daemon that talks to `runtime`."""
    return WorkerOptions(
        runtime=runtime.url,
        api_key=None,
        name="w1",
        slots=slots,
        executor="auto",
        config=None,
        grace_sec=grace_sec,
        pace=pace,
    )


NO_LIMITS = LimitSettings(min_free_memory_mb=0, min_free_disk_mb=0)


@asynccontextmanager
async def daemon(
    options: WorkerOptions,
    executor: ScriptedExecutor,
    *,
    limits: LimitSettings = NO_LIMITS,
    look: Measure | None = None,
) -> AsyncGenerator[DaemonUnderTest]:
    """A daemon that is stopped, and has ended well, when the block is left. `look` sees a machine of the test's making."""
    under_test = DaemonUnderTest(options, executor, limits, look)
    try:
        yield under_test
        under_test.stopping.ask_at_once()
        await under_test.ended()
    finally:
        await under_test.kill()


def spooled(directory: Path) -> list[str]:
    """The leases in the spool."""
    spool = directory / "spool"
    return sorted(path.name for path in spool.iterdir()) if spool.is_dir() else []


def with_pace(**changes: float) -> Pace:
    """The pace of these tests with some of it changed."""
    return replace(PACE, **changes)  # type: ignore[arg-type]
