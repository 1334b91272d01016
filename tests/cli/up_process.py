"""One `bloom up` as a process, and how to ask what it runs."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

READY = "Ctrl-C stops; data is kept."
START_SEC = 60.0
WAIT_SEC = 10.0
STOP_SEC = 5.0
READY_SEC = 5.0

TASK = {"context_id": "c", "agent_slug": "a", "prompt": "Say hello"}


class Up:
    """One `bloom up` in a session of its own, and what it has printed so far."""

    def __init__(self, directory: Path, environment: dict[str, str], *options: str) -> None:
        self.printed = ""
        self.data_dir = Path(environment["BLOOM_DATA_DIR"])
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bloom", "up", *options],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._watch = psutil.Process(self.process.pid)

    def wait_for(self, text: str, timeout_sec: float = START_SEC) -> None:
        """Read on until `text` has been printed."""
        self._read(lambda: text in self.printed, timeout_sec)
        assert text in self.printed, self.printed

    def finish(self, timeout_sec: float = START_SEC) -> int:
        """Read to the end; the exit code."""
        self._read(lambda: False, timeout_sec)
        return self.process.wait(timeout_sec)

    def _read(self, enough: Callable[[], bool], timeout_sec: float) -> None:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        deadline = time.monotonic() + timeout_sec
        while not enough():
            readable, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            assert readable, f"nothing more was printed: {self.printed}"
            if not (data := os.read(descriptor, 65536)):
                return
            self.printed += data.decode()

    @property
    def url(self) -> str:
        """The address that it printed; there is only one."""
        (url,) = re.findall(r"http://\S+", self.printed)
        return url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def descendants(self) -> list[psutil.Process]:
        """Everything that runs below it now."""
        return self._watch.children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """Its child whose command line has `word`: `serve` (the runtime), `membridge`, `worker` or a part of `postgres`."""
        below = [(process, process.cmdline()) for process in self._watch.children()]
        (found,) = [one for one, words in below if word in words and (word == "membridge" or "membridge" not in words)]
        return found

    def postmaster(self) -> psutil.Process:
        (found,) = [process for process in self._watch.children() if process.name() == "postgres"]
        return found

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """Send a signal to it alone and wait for its end, which must be clean; the seconds that took."""
        below = self.descendants()
        began = time.monotonic()
        self.process.send_signal(number)
        assert self.finish(WAIT_SEC) == 0, self.printed
        took = time.monotonic() - began
        wait_until_gone(below)
        return took

    def clear(self) -> None:
        """Leave nothing behind, whatever the test did."""
        with suppress(psutil.Error):
            below = self.descendants()
            self.process.kill()
            for process in below:
                with suppress(psutil.Error):
                    process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Starter(Protocol):
    """Starts `bloom up` below a directory of the test; without `wait=False` it is ready when this returns.

    A `directory` that is not there yet gets a database with our schema: `fresh` leaves it out.
    """

    def __call__(
        self, *options: str, directory: str = "home", wait: bool = True, fresh: bool = False, **variables: str
    ) -> Up: ...


@contextmanager
def starter(place: Path, made_database: Path) -> Generator[Starter]:
    """What starts `bloom up` below `place`, and ends what was started."""
    started: list[Up] = []

    def start(*options: str, directory: str = "home", wait: bool = True, fresh: bool = False, **variables: str) -> Up:
        home = place / directory
        if not home.exists():
            home.mkdir()
            if not fresh:
                shutil.copytree(made_database, home / ".bloom")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": sockets,
            "PORT": "0",
            "MEMBRIDGE_PORT": "0",
            "BLOOM_DATA_DIR": str(home / ".bloom"),
            "BLOOM_PROCESSES": "1",
            "BLOOM_UP_SLOTS": "0",
        } | variables
        one = Up(home, {name: value for name, value in environment.items() if value}, *options)
        started.append(one)
        if wait:
            one.wait_for(READY)
        return one

    # Sockets outlive a killed database.
    with tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as sockets:
        yield start
        for one in started:
            one.clear()


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs, also when nobody asks for their exit codes."""
    for process in processes:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process.pid)
            readable, _, _ = select.select([descriptor], [], [], WAIT_SEC)
            os.close(descriptor)
            assert readable, process


def healthy(url: str) -> bool:
    answer = httpx.get(f"{url}/api/runtime/health", timeout=START_SEC, trust_env=False)
    return answer.status_code == 200


def create_task(url: str) -> str:
    answer = httpx.post(f"{url}/api/runtime/llm-tasks", json=TASK, timeout=WAIT_SEC, trust_env=False)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def task_of(url: str, task_id: str) -> Any:
    """The task, asked for again on 503 as a client does: each one uses up a connection to a database that died."""
    for _ in range(20):
        answer = httpx.get(f"{url}/api/runtime/llm-tasks/{task_id}", timeout=WAIT_SEC, trust_env=False)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE.value:
            assert answer.status_code == httpx.codes.OK.value, answer.text
            return answer.json()
    raise AssertionError("the database did not come back")


def busyness() -> float:
    """How many times slower than alone this machine is now; 1 when it has a core to spare."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
