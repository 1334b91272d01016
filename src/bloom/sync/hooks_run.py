"""What a hook does: it starts the sync as a process of its own and returns. The session waits for nothing and sees no error.

Imports nothing slow: the first half runs while Claude Code waits for it.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Generator
from datetime import datetime
from pathlib import Path

EVENTS = {
    # event: (what is run, seconds before it may be run again)
    "session-start": (("pull", "--merge"), 60.0),
    "stop": (("push",), 300.0),
    "session-end": (("push",), 10.0),
}
_SYNC_SEC = 600.0
"""A sync that takes longer is given up; the next one goes on where it can."""
_LOG_BYTES = 512 * 1024
_LOGS = 3


def begin(event: str) -> None:
    """Start the sync of `event` in the background unless one began a short while ago. Never raises."""
    with contextlib.suppress(Exception):
        if _is_due(event):
            subprocess.Popen(
                [sys.executable, "-m", "bloom", "sync", "hook", event, "--in-background"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=_database().parent,
                start_new_session=True,  # Claude Code ends what is left of a hook's group when the session ends
            )


def work(event: str) -> None:
    """Run the sync of `event` and write down how it went. Never raises."""
    words, _ = EVENTS.get(event, ((), 0))
    if not words:
        return
    begun = time.monotonic()
    try:
        # claude-mem's worker belongs to a session that is running: it is left alone (bloom.sync.claude_mem_process).
        done = subprocess.run(
            [sys.executable, "-m", "bloom", "sync", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SYNC_SEC,
            env={**os.environ, "BLOOM_SYNC_LEAVE_CLAUDE_MEM": "1"},
            check=False,
        )
        told, code = f"{done.stdout}\n{done.stderr}", f"exit code {done.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        told, code = "", f"{type(error).__name__}"
    lines = [line.rstrip() for line in told.splitlines() if line.strip()]
    seconds = time.monotonic() - begun
    note(f"{event}: bloom sync {' '.join(words)}: {code} after {seconds:.1f} s", *lines[:100])


def note(*lines: str) -> None:
    """Add `lines` to the hooks' log, which is kept under two megabytes. Never raises."""
    with contextlib.suppress(OSError):
        log = _beside("hooks.log")
        with _locked("hooks.lock"):
            if log.exists() and log.stat().st_size > _LOG_BYTES:
                for number in range(_LOGS - 1, 0, -1):
                    older = log.with_name(f"{log.name}.{number}")
                    if older.exists():
                        older.replace(log.with_name(f"{log.name}.{number + 1}"))
                log.replace(log.with_name(f"{log.name}.1"))
            stamp = datetime.now().astimezone().isoformat(timespec="seconds")
            text = "".join(f"{stamp} {line[:2000]}\n" for line in lines)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)


def _is_due(event: str) -> bool:
    """Whether the sync of `event` has not begun within its pause; then it counts as begun now."""
    words, pause_sec = EVENTS[event]
    _database().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = _beside(f"hook-{words[0]}")
    with _locked("hooks.lock"):
        now = time.time()
        with contextlib.suppress(FileNotFoundError):
            if 0 <= now - mark.stat().st_mtime < pause_sec:
                return False
        mark.touch(mode=0o600)
        os.utime(mark, (now, now))
        return True


@contextlib.contextmanager
def _locked(name: str) -> Generator[None]:
    descriptor = os.open(_beside(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for a few microseconds by its holders
        yield
    finally:
        os.close(descriptor)


def _database() -> Path:
    named = os.environ.get("CLAUDE_MEM_DB")
    return Path(named or "~/.claude-mem/claude-mem.db").expanduser().absolute()


def _beside(suffix: str) -> Path:
    database = _database()
    return database.with_name(f"{database.name}.bloom-{suffix}")
