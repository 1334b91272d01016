"""Living processes, found by a marker in their command line."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from uuid import uuid4

import psutil

PATIENCE_SEC = 20.0


def _command_lines(marker: str) -> dict[int, list[str]]:
    """The command lines of the processes in which `marker` stands."""
    if sys.platform != "linux":
        every = psutil.process_iter(["cmdline"])
        return {process.pid: process.info["cmdline"] or [] for process in every}
    lines: dict[int, list[str]] = {}
    sought = marker.encode()
    # Looked at a hundred times in a second, so by the cheapest means.
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb", 0) as file:  # noqa: PTH123
                # It may have ended meanwhile; a zombie's is empty.
                if sought in (line := file.read()):
                    lines[int(name)] = line.decode(errors="replace").split("\x00")
    return lines


def with_marker(marker: str) -> list[int]:
    """The processes, zombies and guardians aside, that have `marker` as a word of their command line."""
    return [
        pid
        for pid, words in _command_lines(marker).items()
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
        time.sleep(0.02)
