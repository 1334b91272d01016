"""What a worker daemon is told at its start; cheap to import."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Pace:
    """How fast the daemon's loops go; all in seconds. Only tests change it."""

    ttl_sec: int = 60
    """The length of the leases that are asked for: a dead worker's task waits this long for another worker."""
    wait_sec: float = 45
    """How long a claim may wait at the runtime for a task; less than the minute after which proxies cut silent requests."""
    extend_sec: float = 5
    """Leases are extended this often, or every quarter of their length when that is shorter."""
    retry_first_sec: float = 0.5
    retry_max_sec: float = 10
    """Failed requests are tried again after a pause that doubles from the first to the second, with jitter."""
    refused_sec: float = 60
    """The pause after a refused key (401, 403) or version of the protocol."""
    fault_first_sec: float = 30
    fault_max_sec: float = 600
    """After a run that failed by the worker's own fault (no CLI, no login) it claims nothing for this long, doubled
    each time it happens again: every other task would fail here too."""
    board_sec: float = 5
    """The machine is looked at this often."""
    tell_sec: float = 15
    """A worker that takes nothing new, and so claims nothing, tells this often that it is there."""
    request_sec: float = 30
    """Bound on each request that does not wait on purpose."""
    farewell_sec: float = 5
    """How long the daemon, once stopped, tries to deliver what its runs left."""


Beside = Callable[["WorkerOptions", asyncio.Event], Awaitable[None]]
"""Something that runs beside the daemon, which hands it its options as they were settled, until the event is set."""


@dataclass(frozen=True)
class WorkerOptions:
    """One daemon. `executor` is `auto`, `claude` or `command`.

    `grace_sec`: how long runs may go on after the first SIGTERM. `lifeline_fd`: the read end of a pipe that the parent
    holds; at its end of file the daemon hands back what it runs and exits.
    """

    runtime: str
    api_key: str | None = field(repr=False)
    name: str
    slots: int
    executor: str
    config: Path | None
    grace_sec: float = 30
    lifeline_fd: int | None = None
    pace: Pace = Pace()
    labels: tuple[str, ...] | None = None
    """What tasks may ask of their worker; None leaves what the runtime knows."""
    beside: Beside | None = None


def worker_name(name: str) -> str:
    """`name`, if a worker can be called so. Raises ValueError that says what would be right."""
    if "/" in name or not _is_word(name):
        raise ValueError("must be 1 to 128 printable characters, without a slash")
    return name


def worker_label(label: str) -> str:
    """`label`, if it can be one. Raises ValueError that says what would be right."""
    if not _is_word(label):
        raise ValueError("must be 1 to 128 printable characters")
    return label


def _is_word(text: str) -> bool:
    return 1 <= len(text) <= 128 and text.isprintable()


WORKER_DIR_VARIABLE = "BLOOM_WORKER_DIR"
WORKER_DIR_NAME = ".bloom-worker"


def worker_dir(home: Path | None = None) -> Path:
    """Where a worker daemon keeps its key, spool and workspaces: `BLOOM_WORKER_DIR`, else `~/.bloom-worker` (of `home`)."""
    named = os.environ.get(WORKER_DIR_VARIABLE)
    return (Path(named) if named else (home or Path.home()) / WORKER_DIR_NAME).expanduser().absolute()
