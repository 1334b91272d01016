"""claude-mem's own worker process: found by its pid file, and only touched when the process there is really it.

It holds `claude-mem.db` open and keeps what it read; a pull therefore stops it and starts it again as it was. A process is
claude-mem's worker when it is of this user, its command line runs `worker-service`, and it started when the pid file
says. A pid that the system has given to another program since fails one of these, and is left alone. No process is ever
killed by force: one that does not end by SIGTERM runs on, and SQLite's own locks keep the database whole.
"""

import contextlib
import json
import logging
import os
import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psutil

log = logging.getLogger("bloom.sync")

LEAVE_VARIABLE = "BLOOM_SYNC_LEAVE_CLAUDE_MEM"
_PID_FILE = "worker.pid"
_SCRIPT = re.compile(r"worker-service\.[cm]?js")
_MANIFESTS = ("package.json", ".claude-plugin/plugin.json")
_STARTS_WITHIN_SEC = 300.0
"""claude-mem writes the pid file at most this long after its process began (its own start-up limit is well below)."""
_CLOCK_SEC = 2.0
_STOP_SEC = 10.0


@dataclass(frozen=True)
class ClaudeMemWorker:
    """The running worker and how to run it again. `version` is that of the installation it runs from, if it tells."""

    process: psutil.Process
    argv: tuple[str, ...]
    script: Path
    directory: str | None
    environment: dict[str, str]
    version: str | None


def find_worker(database: Path) -> ClaudeMemWorker | None:
    """The worker that uses `database`, None where none runs or the process of the pid file is another one."""
    try:
        told = json.loads((database.parent / _PID_FILE).read_bytes())
        pid = told["pid"]
        if type(pid) is not int or pid <= 1:
            return None
        process = psutil.Process(pid)
        with process.oneshot():
            argv, started, uid = process.cmdline(), process.create_time(), process.uids().effective
        script = next((Path(argument) for argument in argv if _SCRIPT.fullmatch(Path(argument).name)), None)
        if script is None or uid != os.geteuid() or not _started_then(cast("dict[str, Any]", told), pid, started):
            return None
    except (OSError, ValueError, TypeError, KeyError, psutil.Error):
        return None
    directory, environment = None, dict(os.environ)
    with contextlib.suppress(psutil.Error, OSError):
        directory, environment = process.cwd(), process.environ()
    return ClaudeMemWorker(process, tuple(argv), script, directory, environment, _version_of(script))


def installed_script(home: Path | None = None) -> Path | None:
    """The worker's script in the newest installation of the plugin for Claude Code; None where there is none."""
    configured = os.environ.get("CLAUDE_CONFIG_DIR")
    plugins = (Path(configured) if configured else (home or Path.home()) / ".claude") / "plugins"
    found = [
        path
        for pattern in (
            "cache/*/claude-mem/*/scripts/worker-service.*js",
            "marketplaces/*/plugin/scripts/worker-service.*js",
        )
        for path in plugins.glob(pattern)
    ]
    return max(found, key=lambda path: (_numbers(_version_of(path)), str(path)), default=None)


@contextmanager
def stopped_for(database: Path) -> Generator[None]:
    """Within it the worker of `database` does not run; afterwards it runs again, if it ran before.

    With `BLOOM_SYNC_LEAVE_CLAUDE_MEM=1`, which hooks set, nothing is touched. What is done is logged; nothing is raised for
    the worker's sake.
    """
    worker = None if os.environ.get(LEAVE_VARIABLE) == "1" else find_worker(database)
    stopped = worker is not None and _stop(worker)
    try:
        yield
    finally:
        if worker is not None and stopped:
            _start(worker)


def _started_then(told: dict[str, Any], pid: int, started: float) -> bool:
    token = told.get("startToken")
    if isinstance(token, str) and token.isdigit():  # newer versions note the kernel's own start time (Linux)
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            return stat.rpartition(") ")[2].split(" ")[19] == token
    moment = datetime.fromisoformat(told["startedAt"])
    noted = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return noted - _STARTS_WITHIN_SEC <= started <= noted + _CLOCK_SEC


def _stop(worker: ClaudeMemWorker) -> bool:
    name = f"claude-mem's worker (process {worker.process.pid}, version {worker.version or 'unknown'})"
    try:
        worker.process.terminate()  # psutil looks at pid and start time once more before it sends the signal
        worker.process.wait(_STOP_SEC)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        log.warning("%s did not stop within %g s and runs on; restart it to see the new memory", name, _STOP_SEC)
        return False
    except psutil.Error as error:
        log.warning("%s could not be stopped (%s) and runs on", name, type(error).__name__)
        return False
    log.info("%s was stopped", name)
    return True


def _start(worker: ClaudeMemWorker) -> None:
    """Run the worker again as it ran; from the newest installation if its own is gone, as after an update."""
    script = worker.script if worker.script.is_file() else installed_script()
    if script is None:
        log.warning("claude-mem's worker is not started again: its installation is gone; Claude Code starts a new one")
        return
    argv = [str(script) if argument == str(worker.script) else argument for argument in worker.argv]
    try:
        subprocess.Popen(
            argv,
            cwd=worker.directory if worker.directory and Path(worker.directory).is_dir() else None,
            env=worker.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        log.warning("claude-mem's worker could not be started again (%s); Claude Code starts a new one", error.strerror)
    else:
        log.info("claude-mem's worker was started again (version %s)", _version_of(script) or "unknown")


def _version_of(script: Path) -> str | None:
    """The version that the installation around `script` tells of itself."""
    for directory in list(script.parents)[:3]:
        for manifest in _MANIFESTS:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                version = json.loads((directory / manifest).read_bytes()).get("version")
                if isinstance(version, str):
                    return version
    return None


def _numbers(version: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version or ""))
