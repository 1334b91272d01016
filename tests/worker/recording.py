"""One run of an executor, with what it emitted."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from living import PATIENCE_SEC

from bloom.worker.executors.interface import Executor, Report, RunEvent, RunTask, StopSignal

Make = Callable[..., Executor]
"""Makes an executor of some kind."""


@dataclass
class Recording:
    """Started by `record`; `report` is the run's end."""

    stop: StopSignal = field(default_factory=StopSignal)
    events: list[RunEvent] = field(default_factory=list[RunEvent])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    running: "asyncio.Task[Report] | None" = None

    async def emit(self, event: RunEvent) -> None:
        self.events.append(event)
        self.changed.set()

    async def until(self, holds: Callable[[RunEvent], object]) -> None:
        """Return when an event came for which `holds` does."""
        async with asyncio.timeout(PATIENCE_SEC):
            while not any(holds(event) for event in self.events):
                await self.changed.wait()
                self.changed.clear()

    async def report(self) -> Report:
        assert self.running is not None
        async with asyncio.timeout(PATIENCE_SEC):
            return await asyncio.shield(self.running)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.type == kind]

    @property
    def text(self) -> str:
        return "".join(data["text"] for data in self.of("text"))


def task(prompt: str = "hello", **fields: Any) -> RunTask:
    """A task of a context, agent, task and lease of its own, as far as `fields` do not say."""
    unique = str(uuid4())
    values: dict[str, Any] = {
        "task_id": f"task-{unique}",
        "lease_id": f"lease-{unique}",
        "context_id": f"context-{unique}",
        "agent_slug": "coder",
        "prompt": prompt,
        "timeout_sec": 60,
        **fields,
    }
    return RunTask(**values)


def record(executor: Executor, of: RunTask) -> Recording:
    """Start a run."""
    recording = Recording()
    recording.running = asyncio.create_task(executor.run(of, recording.emit, recording.stop))
    return recording


async def run(executor: Executor, of: RunTask) -> tuple[Report, Recording]:
    """Run a task to its end."""
    recording = record(executor, of)
    return await recording.report(), recording
