"""Living processes, found by a marker in their command line."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil

PATIENCE_SEC = 20.0


def _command_lines() -> dict[int, list[str]]:
    if sys.platform != "linux":
        every = psutil.process_iter(["cmdline"])
        return {process.pid: process.info["cmdline"] or [] for process in every}
    lines: dict[int, list[str]] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile; a zombie's is empty
            lines[int(path.parent.name)] = path.read_bytes().decode(errors="replace").split("\x00")
    return lines


def with_marker(marker: str) -> list[int]:
    """The processes, zombies and guardians aside, that have `marker` as a word of their command line."""
    return [
        pid
        for pid, words in _command_lines().items()
        if marker in words and not any(word.endswith("guardian.py") for word in words)
    ]


@contextmanager
def marked() -> Generator[str]:
    """A marker that is also a number of seconds for `sleep`; what is left of it at the end of the test is killed."""
    marker = f"300.{uuid4().int % 10**12:012}"
    try:
        yield marker
    finally:
        for pid in with_marker(marker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], object]) -> None:
    """Look at `condition` until it holds; fails after 20 s."""
    deadline = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert time.monotonic() < deadline, "the condition never came to hold"
        time.sleep(0.01)
