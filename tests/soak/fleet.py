"""What the storm rages over: one PostgreSQL, replicas of `bloom serve`, worker daemons; all real, all to be killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil
import psycopg
from tests.real_worker import NO_LIMITS

from bloom.db.embedded import EmbeddedPostgres
from bloom.db.migrate import upgrade

START_SEC = 60.0
STOP_SEC = 20.0
TTL_SEC = 3
SLOTS = 2

# What `bloom worker` runs, without the rest of the command line: with shorter leases, so that many are lost in a minute.
_DAEMON = f"""
import sys
from bloom.worker.daemon import run_worker
from bloom.worker.options import Pace, WorkerOptions
runtime, name = sys.argv[1:]
pace = Pace(ttl_sec={TTL_SEC}, wait_sec=5, extend_sec=0.8, retry_first_sec=0.05, retry_max_sec=0.5, request_sec=2,
            farewell_sec=2)
sys.exit(run_worker(WorkerOptions(runtime, None, name, {SLOTS}, "command", None, 0, pace=pace)))
"""

# $0 is the marker, which is also a number of seconds. A task that forks leaves a process in a session of its own behind.
_TASK = """
prompt=$(cat)
case "$prompt" in *fork*) setsid sleep "$0" > /dev/null 2>&1 & esac
case "$prompt" in *slow*) sleep 2 ;; *) sleep 0.1 ;; esac
case "$prompt" in *fail*) exit 3 ;; *crash*) kill -9 $$ ;; esac
echo "$prompt"
"""


class Program:
    """One process of ours that is killed, paused and started again."""

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path, fds: Sequence[int] = ()
    ) -> None:
        self.name = name
        self._argv, self._environment, self._log, self._fds = argv, {**os.environ, **environment}, log, fds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it, or let it go on where it was paused."""
        if self.pid is not None:
            self.send(signal.SIGCONT)
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, pass_fds=self._fds
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> bool:
        """End it by a signal and wait for it; whether that sufficed: if not, it is killed."""
        if self._process is None:
            return True
        self.send(number)
        try:
            self._process.wait(STOP_SEC)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True


class Postgres(Protocol):
    """A database that the fleet starts and ends."""

    def start(self, *, timeout_sec: float = ...) -> str: ...

    def stop(self) -> None: ...


class Fleet:
    """PostgreSQL (an embedded one, or `database`), replicas and workers in one directory. Use as a context manager; at its end
    nothing of it lives. `environment` is of the replicas, `prefix` goes before all commands; workers find the replicas at
    `worker_host`.
    """

    def __init__(
        self,
        directory: Path,
        marker: str,
        *,
        replicas: int = 3,
        workers: int = 8,
        database: Postgres | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        worker_host: str = "127.0.0.1",
    ) -> None:
        self.directory = directory
        self.postgres = EmbeddedPostgres(directory / "data", settings={"max_connections": 60})
        self._database = database or self.postgres
        self._more, self._prefix, self._worker_host = environment or {}, prefix, worker_host
        self.marker = marker
        self.url = ""
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(replicas)]
        self.addresses = [f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]
        self.replicas: list[Program] = []
        self.workers: list[Program] = []
        self._names = [f"worker-{n}" for n in range(workers)]

    def __enter__(self) -> "Fleet":
        try:
            self.url = self._database.start(timeout_sec=START_SEC)
            upgrade(self.url)
            for n, listener in enumerate(self._listeners):
                self.replicas.append(self._replica(n, listener.fileno()))
            self.workers = [self._worker(n, name) for n, name in enumerate(self._names)]
            for program in (*self.replicas, *self.workers):
                program.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for program in (*self.workers, *self.replicas):
            program.end()
        self._database.stop()
        for listener in self._listeners:
            listener.close()

    def _replica(self, number: int, fd: int) -> Program:
        environment = {
            "DATABASE_URL": self.url,
            "BLOOM_RATE_LIMIT": "off",
            "BLOOM_DB_POOL_SIZE": "4",
            "BLOOM_LOG_LEVEL": "warning",
            **self._more,
        }
        argv = [*self._prefix, sys.executable, "-m", "bloom", "serve", "--fd", str(fd)]
        return Program(f"replica-{number}", argv, environment, self.directory / f"replica-{number}.log", [fd])

    def _worker(self, number: int, name: str) -> Program:
        home = self.directory / name
        home.mkdir(exist_ok=True)
        argv = ", ".join(f"'''{word}'''" for word in ("/bin/sh", "-c", _TASK, self.marker))
        (home / "worker.toml").write_text(f"stop_grace_sec = 0\n[command]\nargv = [{argv}]\n{NO_LIMITS}")
        address = self.addresses[number % len(self.addresses)].replace("127.0.0.1", self._worker_host)
        return Program(
            name,
            [*self._prefix, sys.executable, "-c", _DAEMON, address, name],
            {"BLOOM_WORKER_DIR": str(home)},
            home / "daemon.log",
        )

    def query(self, question: str) -> list[tuple[object, ...]]:
        """The rows that answer `question`, asked on a connection of its own."""
        with psycopg.connect(self.url, connect_timeout=5, autocommit=True) as connection:
            return connection.execute(question.encode()).fetchall()

    def slow_disk(self, delay_ms: int) -> None:
        """Let each commit wait for the disk this much longer; nothing where PostgreSQL is away just now."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2, autocommit=True) as admin:
            admin.execute(f"alter system set commit_delay = {delay_ms * 1000}".encode())
            admin.execute("alter system set commit_siblings = 0")
            admin.execute("select pg_reload_conf()")

    def below_workers(self) -> list[psutil.Process]:
        """Guardians, programs and whatever these have started."""
        found: list[psutil.Process] = []
        for worker in self.workers:
            with suppress(psutil.Error):
                if worker.pid is not None:
                    found += psutil.Process(worker.pid).children(recursive=True)
        return found

    def kill_backend(self, choose: random.Random) -> None:
        """`kill -9` of a process of PostgreSQL that serves a connection: PostgreSQL then ends all and recovers."""
        with suppress(psutil.Error, IndexError):
            processes = psutil.Process(self.postgres.pid or 0).children()
            serving = [one for one in processes if "[local]" in " ".join(one.cmdline())]
            choose.choice(serving).kill()

    def kill_postmaster(self) -> None:
        """`kill -9` of PostgreSQL's first process."""
        if (pid := self.postgres.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.postgres.pid is None, "the end of the postmaster")

    def heal(self) -> None:
        """Bring back whatever is dead or paused."""
        self._database.start(timeout_sec=START_SEC)
        for program in (*self.replicas, *self.workers):
            program.start()
        wait_until(self._answers, "PostgreSQL")
        self.slow_disk(0)

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            return bool(self.query("select 1"))
        return False


def wait_until(look: Callable[[], object], what: str, *, within_sec: float = START_SEC) -> None:
    """Return when `look` gives something true; raises TimeoutError."""
    deadline = time.monotonic() + within_sec
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_sec:.0f} s in vain for {what}")
        time.sleep(0.1)
