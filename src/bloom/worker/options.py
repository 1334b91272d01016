"""What a worker daemon is told at its start; cheap to import."""

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Pace:
    """How fast the daemon's loops go; all in seconds. Only tests change it."""

    ttl_sec: int = 60
    """The length of the leases that are asked for: a dead worker's task waits this long for another worker."""
    wait_sec: float = 25
    """How long a claim may wait at the runtime for a task."""
    extend_sec: float = 5
    """Leases are extended this often, or every quarter of their length when that is shorter."""
    retry_first_sec: float = 0.5
    retry_max_sec: float = 30
    """Failed requests are tried again after a pause that doubles from the first to the second, with jitter."""
    refused_sec: float = 60
    """The pause after a refused key (401, 403)."""
    fault_first_sec: float = 30
    fault_max_sec: float = 600
    """After a run that failed by the worker's own fault (no CLI, no login) it claims nothing for this long, doubled
    each time it happens again: every other task would fail here too."""
    request_sec: float = 30
    """Bound on each request that does not wait on purpose."""
    farewell_sec: float = 5
    """How long the daemon, once stopped, tries to deliver what its runs left."""


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


def worker_dir() -> Path:
    """Where a worker daemon keeps its spool and its workspaces: `BLOOM_WORKER_DIR`, else `~/.bloom-worker`."""
    named = os.environ.get("BLOOM_WORKER_DIR")
    return (Path(named) if named else Path.home() / ".bloom-worker").expanduser().absolute()
