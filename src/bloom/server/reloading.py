"""Development: `bloom serve` in a child that is started anew when the code changes."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from watchfiles import watch

import bloom

LOOK_EVERY_MS = 500
STOP_SEC = 5


def serve_reloading(fd: int, lifeline_fd: int | None) -> None:
    """Serve on the listening socket `fd` until SIGTERM, SIGINT or the end of `lifeline_fd`. A child that stops by itself has
    said why; it is started again at the next change.
    """
    # The child goes when this process does, be it by kill -9.
    read_end, write_end = os.pipe()
    options = ["--fd", str(fd), "--processes", "1", "--lifeline-fd", str(read_end)]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-P", "-m", "bloom", "serve", *options], pass_fds=(fd, read_end))

    signal.signal(signal.SIGTERM, _leave)
    child = start()
    try:
        code = Path(bloom.__file__).parent
        for changes in watch(code, rust_timeout=LOOK_EVERY_MS, yield_on_timeout=True, raise_interrupt=False):
            if lifeline_fd is not None and select.select([lifeline_fd], [], [], 0)[0]:
                break
            if changes:
                _stop(child)
                child = start()
    finally:
        _stop(child)
        os.close(write_end)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_SEC)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
