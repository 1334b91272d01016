"""What the worker daemon and an executor agree on: a task in, events on the way, one report at the end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

WORKER_FAULTS = frozenset({"cli_missing", "command_missing", "login", "workspace_failed"})
"""Codes of reports whose cause is this worker, not the task: every other task would fail here too."""


@dataclass(frozen=True)
class RunTask:
    """What an executor knows of a leased task. `budget` is US dollars, 0 for none; `attempt` counts from 1. `output_path` is
    a file that is not there yet, for an output that is too large for memory. `request_id` made the task; what is traced of the
    run lies below `traceparent`.
    """

    task_id: str
    lease_id: str
    context_id: str
    agent_slug: str
    prompt: str
    context_hints: Sequence[str] = ()
    timeout_sec: int = 120
    budget: float = 0.0
    desired_format: Literal["json", "text"] = "text"
    attempt: int = 1
    output_path: Path | None = None
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class RunEvent:
    """One piece of what happens in a run. `data` is plain JSON; its keys by `type`:

    - status: state (`started`, `restarted`, `new_session`, `mentions_neutralised`, `waiting_for_login`,
      `output_continues_unseen`: it is long, no more text of it is told), and what the state brings
    - text, thinking: text
    - tool_use: id, name, input; parent_id when a subagent uses it
    - tool_result: id, is_error, content (text, cut to 16 KiB, then truncated: true); parent_id as above
    - retry: attempt, max_retries, retry_delay_ms, error_status, error
    - rate_limit: status (`allowed`, `allowed_warning`, `rejected`), limit, resets_at (epoch milliseconds), utilization
    - error: code, message; once, as the last event of a run that failed without having been stopped
    """

    type: Literal["status", "text", "thinking", "tool_use", "tool_result", "retry", "rate_limit", "error"]
    data: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """How a run ended. `code` is stable, `error_message` is for a person; both are None for a success.

    `metrics` always has duration_ms (int) and tokens_used (int or None). `output_path`: the output of a success is in the
    task's file of this name, as UTF-8 that can be stored, and `output` is None.
    """

    status: Literal["success", "error"]
    output: str | None
    error_message: str | None = None
    code: str | None = None
    retryable: bool = False
    retry_after_sec: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict[str, Any])
    output_path: Path | None = None


class StopReason(StrEnum):
    """Why the daemon ends a run."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"


class StopSignal:
    """The daemon's word to one run. The first reason stays. `lost`: whatever the reason, the lease is lost by now, and the
    run is to end at once.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.lost = asyncio.Event()
        self.reason: StopReason | None = None

    def set(self, reason: StopReason) -> None:
        """Ask the run to end."""
        if reason is StopReason.LEASE_LOST:
            self.lost.set()
        if self.reason is None:
            self.reason = reason
            self.event.set()


Emit = Callable[[RunEvent], Awaitable[None]]


class Executor(Protocol):
    """A way to run a task."""

    @property
    def name(self) -> str:
        """`claude` or `command`."""
        ...

    async def run(self, task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        """Run `task` to its end, its timeout or `stop`, emitting events on the way.

        Whatever the child does becomes a Report; only what `emit` raises, and cancellation, come out as exceptions.
        However this returns or raises, no descendant of the child lives then.
        """
        ...
