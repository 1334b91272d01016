"""Child processes that are kept running, and the signals that end it all."""

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType

from bloom.base.errors import BloomError
from bloom.db.data_dir import open_log

_Handler = Callable[[int, FrameType | None], object] | int | None
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

FIRST_PAUSE_SEC = 0.5
LONGEST_PAUSE_SEC = 30.0
STEADY_SEC = 60.0
"""Who ran this long and then dies starts again after the first pause; who dies sooner waits twice as long as before."""
SETTLED_SEC = 1.0
"""Who still runs after this is said to run again."""


class Signals:
    """Signals to stop, and deaths of children, as something a loop can wait for; the main thread's, within `with`."""

    def __init__(self) -> None:
        self.stops = 0
        self._read_end, self._write_end = os.pipe()
        self._before: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> "Signals":
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            # Under nohup a closed terminal is no reason to stop.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._count)
        # A handler that does nothing: without one the kernel drops the signal and nothing wakes up.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._nothing)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read_end)
        os.close(self._write_end)

    def _count(self, number: int, frame: FrameType | None) -> None:
        self.stops += 1

    def _nothing(self, number: int, frame: FrameType | None) -> None:
        pass

    def wait(self, timeout_sec: float, *, lifeline: int | None = None) -> bool:
        """Return at the next signal, or after `timeout_sec`. False when the other end of the pipe `lifeline` is closed."""
        watched = [self._read_end] if lifeline is None else [self._read_end, lifeline]
        readable, _, _ = select.select(watched, [], [], max(timeout_sec, 0))
        with suppress(BlockingIOError):
            os.read(self._read_end, 4096)
        return lifeline not in readable or os.read(lifeline, 4096) != b""


class Child:
    """A program of ours in a session of its own, so that a terminal's Ctrl-C reaches only its parent."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path | None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`log` None: it writes where this process does."""
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._environment = dict(environment)
        self._pass_fds = tuple(pass_fds)
        self._process: subprocess.Popen[bytes] | None = None
        self.log_start = 0
        """Where in its log its last start begins, in bytes."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of the process that was last started."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended (negative: by that signal); None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        code = None if self._process is None else self._process.returncode
        if code is not None and code < 0:
            return f"signal {-code}"
        return f"exit code {code}"

    def start(self) -> None:
        """Start it; its output is appended to its log."""
        with nullcontext() if self.log is None else open_log(self.log) as output:
            self.log_start = 0 if output is None else output.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                pass_fds=self._pass_fds,
                start_new_session=True,
            )

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it runs."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and its session's process group at once, and reap it."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Kept:
    """Something that has to run: started again after it died, each time after a longer pause unless it ran steadily."""

    def __init__(
        self,
        name: str,
        *,
        start: Callable[[], object],
        alive: Callable[[], bool],
        tell: Callable[[str], None],
        ending: Callable[[], str] = lambda: "",
    ) -> None:
        self.name = name
        self._start, self._alive, self._tell, self._ending = start, alive, tell, ending
        self._pause_sec = FIRST_PAUSE_SEC
        self._since = time.monotonic()
        self._due: float | None = None
        self._settled = True

    def tend(self) -> float:
        """Look after it: notice its death, start it again when its pause is over. Seconds until it wants this again."""
        now = time.monotonic()
        if self._due is not None:
            if now < self._due:
                return self._due - now
            self._due, self._since, self._settled = None, now, False
            # Why it does not start is in its log; it is tried again.
            with suppress(OSError, BloomError):
                self._start()
            return 0.0
        if not self._alive():
            return self._mourn(now)
        if not self._settled:
            if now - self._since < SETTLED_SEC:
                return SETTLED_SEC - (now - self._since)
            self._settled = True
            self._tell(f"{self.name} runs again")
        return LONGEST_PAUSE_SEC

    def _mourn(self, now: float) -> float:
        if now - self._since >= STEADY_SEC:
            self._pause_sec = FIRST_PAUSE_SEC
        pause_sec, ending = self._pause_sec, self._ending()
        self._tell(f"{self.name} stopped{ending and f' ({ending})'}; starting it again in {pause_sec:g} s")
        self._due = now + pause_sec
        self._pause_sec = min(pause_sec * 2, LONGEST_PAUSE_SEC)
        return pause_sec


class Question:
    """Asks until the answer is yes, within `with`, in a thread of its own: a slow answer keeps no signal waiting."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self._ask = ask
        self._yes = threading.Event()
        self._given_up = threading.Event()

    def __enter__(self) -> "Question":
        threading.Thread(target=self._ask_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()

    @property
    def answered_yes(self) -> bool:
        """Whether the answer has been yes."""
        return self._yes.is_set()

    def _ask_on(self) -> None:
        pause_sec = 0.05
        while not self._given_up.wait(pause_sec):
            if self._ask():
                return self._yes.set()
            # Few requests: they count against the limit that the person at this machine has.
            pause_sec = min(pause_sec * 1.5, 1)
        return None


def tail(path: Path, lines: int, *, since: int = 0) -> list[str]:
    """The last `lines` lines of the text file `path`, none from before its byte `since`; empty when it is missing."""
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 32 * 1024, min(since, size)))
        return file.read().decode(errors="replace").splitlines()[-lines:]
    return []
