"""What a run that was killed left behind: a postmaster without its parent, orphaned backends, stale lock files."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil

_FAST_SEC, _IMMEDIATE_SEC, _KILLED_SEC = 8.0, 3.0, 5.0


def processes_of(cluster: Path) -> list[psutil.Process]:
    """The living processes of PostgreSQL that work in the data directory `cluster`.

    Judged by program and working directory, never by a pid in a file: that one may be somebody else's by now.
    """
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and _is_alive(process) and Path(process.cwd()).samefile(cluster):
                found.append(process)
    return found


def end_leftovers(cluster: Path) -> bool:
    """Stop every server that still works in `cluster`, cleanly if it lets itself be, and remove its stale pid file.

    The caller holds the data directory's lock and has no server of its own running. Returns whether a server was found.
    """
    servers = processes_of(cluster)
    parents = {_parent_of(process) for process in servers}
    postmasters = [process for process in servers if process.pid in parents]
    # A postmaster ends its children in order. Orphans have nobody to finish for: what they did not commit is void.
    if postmasters:
        _signal(postmasters, signal.SIGINT)
        if not _wait_until_empty(cluster, _FAST_SEC):
            _signal(postmasters, signal.SIGQUIT)
            _wait_until_empty(cluster, _IMMEDIATE_SEC)
    _signal(processes_of(cluster), signal.SIGKILL)
    _wait_until_empty(cluster, _KILLED_SEC)
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    return bool(servers)


def _parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def _wait_until_empty(cluster: Path, share_sec: float) -> bool:
    deadline = time.monotonic() + share_sec
    while remaining := processes_of(cluster):
        while any(_is_alive(process) for process in remaining):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
    return True


def _is_alive(process: psutil.Process) -> bool:
    # A dead process whose parent has not asked for its exit code yet is a zombie: it works nowhere any more.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
