"""A real worker daemon as a process, whose tasks are run by a script that writes down each run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.real_runtime import end_process

START_SEC = 60.0
"""Python starts several times on what may be a busy machine."""

# What `bloom worker` runs, without the rest of the command line, and faster.
DAEMON = """
import sys
from pathlib import Path
from bloom.worker.daemon import run_worker
from bloom.worker.options import Pace, WorkerOptions
runtime, name, slots, ttl_sec, executor = sys.argv[1:]
pace = Pace(ttl_sec=int(ttl_sec), wait_sec=0.5, retry_first_sec=0.02, retry_max_sec=0.2, extend_sec=0.2, request_sec=5)
sys.exit(run_worker(WorkerOptions(runtime, None, name, int(slots), executor, None, 0, pace=pace)))
"""

# Says its prompt in two halves. Where the prompt begins with "hold" it waits between them for the file `go-TASK`; with
# "hold and burn" several processes for each core do nothing but count meanwhile.
SCRIPT = """
import os, sys, time
here, task = sys.argv[1], os.environ["BLOOM_TASK_ID"]
prompt = sys.stdin.read()
half = len(prompt) // 2
with open(os.path.join(here, "runs"), "a") as file:
    file.write(task + "\\n")
print(prompt[:half], end="", flush=True)
if prompt.startswith("hold and burn"):
    for _ in range(4 * os.cpu_count()):
        if os.fork() == 0:
            while True:
                pass
while prompt.startswith("hold") and not os.path.exists(os.path.join(here, "go-" + task)):
    time.sleep(0.01)
print(prompt[half:], end="", flush=True)
"""


NO_LIMITS = "[limits]\nmin_free_memory_mb = 0\nmin_free_disk_mb = 0\n"


class RealWorker:
    """The daemon of one worker directory, to be killed and started again.

    `config`: the text of worker.toml, by default one that runs the script above. `environment`: all of the daemon's, by
    default this process's own.
    """

    def __init__(
        self,
        runtime_url: str,
        directory: Path,
        *,
        name: str = "w1",
        slots: int = 1,
        ttl_sec: int = 60,
        executor: str = "command",
        config: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        (directory / "worker.toml").write_text(self._script_config() if config is None else config, encoding="utf-8")
        self._argv = [sys.executable, "-c", DAEMON, runtime_url, name, str(slots), str(ttl_sec), executor]
        given = os.environ if environment is None else environment
        self._environment = {**given, "BLOOM_WORKER_DIR": str(directory)}
        self._log = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def _script_config(self) -> str:
        script = self.directory / "script.py"
        script.write_text(SCRIPT)
        argv = json.dumps([sys.executable, "-I", "-S", str(script), str(self.directory)])
        return f"stop_grace_sec = 0\n[command]\nargv = {argv}\n{NO_LIMITS}"

    def start(self) -> None:
        """Start the process and return at once."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        self._end(signal.SIGTERM)

    def let_go(self, task_id: str) -> None:
        """Let the run of a task that holds come to its end."""
        (self.directory / f"go-{task_id}").touch()

    def runs(self) -> list[str]:
        """The tasks that were run, one entry for each run, in order."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / "runs").read_text().split()
        return []

    def until_run(self, task_id: str, times: int = 1) -> None:
        """Return when the `times`-th run of a task has begun."""
        self.until(lambda: self.runs().count(task_id) >= times, f"run {times} of {task_id}")

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Look at `condition` until it holds; fails with the daemon's log after a minute."""
        deadline = time.monotonic() + START_SEC
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.log()}"
            time.sleep(0.02)

    def spooled(self) -> list[str]:
        """The leases in the spool."""
        spool = self.directory / "spool"
        return sorted(path.name for path in spool.iterdir()) if spool.is_dir() else []

    def rejected(self) -> list[str]:
        """The leases whose reports the runtime did not take."""
        kept = self.directory / "rejected"
        return sorted(path.stem for path in kept.iterdir()) if kept.is_dir() else []

    def log(self) -> str:
        """The end of the daemon's log."""
        return self._log.read_text(errors="replace")[-6000:] if self._log.exists() else ""

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            end_process(process, number)


@contextmanager
def real_worker(runtime_url: str, directory: Path, *, slots: int = 1, ttl_sec: int = 60) -> Generator[RealWorker]:
    """A running daemon; stopped at the end of a test that went well, killed otherwise."""
    worker = RealWorker(runtime_url, directory, slots=slots, ttl_sec=ttl_sec)
    worker.start()
    try:
        yield worker
        worker.stop()
    finally:
        worker.kill()
