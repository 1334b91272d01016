"""The embedded PostgreSQL: one server per data directory, run by this small supervisor of PostgreSQL's own programs.

In the data directory: `postgres` (the cluster), `postgres.password`, `postgres.log`, `lock`. What keeps data safe
(fsync, full_page_writes, synchronous_commit) stays on; every connection needs the password (scram-sha-256), and there
is no network, only a socket in a private directory.
"""

import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil
import psycopg

from bloom.base.errors import ConfigurationError, Unavailable
from bloom.db.data_dir import DataDirLock, open_log, sync_directory, write_atomically
from bloom.db.postgres_account import Account
from bloom.db.postgres_binaries import Binaries, choose_binaries
from bloom.db.postgres_leftovers import end_leftovers
from bloom.db.postgres_socket import PORT, SOCKET_NAME, make_socket_dir, remove_socket_dir

USER = "bloom"
DATABASE = "bloom"

_UNFINISHED = "postgres.init-"
_DATABASE_SQL = Path(__file__).with_name("embedded.sql")

# Suited to a small board with an SD card: little memory, compressed WAL, no bursts of log.
_SETTINGS: Mapping[str, str | int] = {
    "max_connections": 100,
    "jit": "off",
    "wal_compression": "on",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "log_checkpoints": "off",
    # Statements and DETAIL lines can carry prompts and outputs; the log does not.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# What no caller may change: durability, and who can come in.
_FIXED: Mapping[str, str | int] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "port": PORT,
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "logging_collector": "off",
    "log_destination": "stderr",
}


def shared_buffers_mb(memory_bytes: int) -> int:
    """A sixteenth of the machine's memory, 64 to 256 MB. With 64 MB each task on tables of 250,000 cost two to four reads of
    pages, with 256 MB about half of one; more would take from the system's own cache, which holds the same pages.
    """
    return min(max(memory_bytes // 16 // 2**20, 64), 256)


def _memory_bytes() -> int:
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # a container's limit, where there is one
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


class EmbeddedPostgres:
    """The PostgreSQL of one data directory. `settings` adds to or replaces its settings, all but the durability's."""

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str | int] | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.log = self.data_dir / "postgres.log"
        self.major: int | None = None
        self._cluster = self.data_dir / "postgres"
        sized = {"shared_buffers": f"{shared_buffers_mb(_memory_bytes())}MB"}
        self._settings = {**_SETTINGS, **sized, **(settings or {}), **_FIXED}
        self._lock = DataDirLock(self.data_dir)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir: Path | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it lives, else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def reachable(self) -> bool:
        """Whether the postmaster lives and its socket is in its place: what cleans temporary directories may remove it."""
        return self.pid is not None and self._socket_dir is not None and (self._socket_dir / SOCKET_NAME).exists()

    @property
    def initialised(self) -> bool:
        """Whether the cluster is there; the first start makes it, which takes seconds on a small board."""
        return (self._cluster / "PG_VERSION").exists()

    def start(self, *, timeout_sec: float = 30, interrupted: Callable[[], bool] = lambda: False) -> str:
        """Start the server and wait until it answers; its URL (user, password, socket), fit for DATABASE_URL.

        Makes the cluster at first, stops what a killed run left behind, does nothing to a server that is reachable, and
        starts one anew that died or lost its socket. Holds the data directory's lock until `stop`. `interrupted` is asked
        often; when it says yes, start gives up. After an error nothing runs, and the lock is as it was: ConfigurationError
        (`data_dir_in_use`, `data_dir_unusable`, `socket_dir_unusable`, `postgres_missing`, `postgres_version`,
        `postgres_account`), Unavailable (`postgres_failed`, `interrupted`).
        """
        deadline = time.monotonic() + timeout_sec
        if self.reachable:
            return self._url()
        self._end(timeout_sec=10)
        held_before = self._lock.held
        self._lock.acquire()
        try:
            self._launch(deadline, interrupted)
            self._wait_until_ready(deadline, interrupted)
            return self._url()
        except BaseException:
            self._end(timeout_sec=3)
            if not held_before:
                self._lock.release()
            raise

    def stop(self, *, timeout_sec: float = 10) -> None:
        """Stop the server within `timeout_sec`: a fast shutdown, then an immediate one, then SIGKILL; release the lock.

        No acknowledged transaction is lost in any of the three. Does nothing when nothing runs.
        """
        self._end(timeout_sec)
        self._lock.release()

    def _end(self, timeout_sec: float) -> None:
        if self._process is not None:
            stages = ((signal.SIGINT, 0.6), (signal.SIGQUIT, 0.25), (signal.SIGKILL, 0.15))
            for number, share in stages:
                if self._process.poll() is None:
                    self._process.send_signal(number)
                    with suppress(subprocess.TimeoutExpired):
                        self._process.wait(timeout_sec * share)
            if self._process.poll() is not None:
                self._process = None
        if self._socket_dir is not None:
            remove_socket_dir(self._socket_dir)
            self._socket_dir = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def running_url(self) -> str | None:
        """The URL of a server that another process runs in this data directory, None when none says that it is ready."""
        with suppress(OSError, IndexError):
            # Line 5 is the directory of its socket, line 8 its state: src/include/utils/pidfile.h of PostgreSQL.
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            if lines[7].strip() == "ready":
                return self._url_in(lines[4])
        return None

    def _url(self) -> str:
        return self._url_in(str(self._socket_dir))

    def _url_in(self, socket_dir: str) -> str:
        host = quote(socket_dir, safe="")
        return f"postgresql://{USER}:{quote(self._password(), safe='')}@/{DATABASE}?host={host}&port={PORT}"

    def _password(self) -> str:
        file = self.data_dir / "postgres.password"
        with suppress(FileNotFoundError):
            if password := file.read_text().strip():
                return password
        if self.initialised:
            raise ConfigurationError(
                "the database's password file is missing from the data directory: put it back from a copy",
                code="data_dir_unusable",
                path=str(file),
            )
        password = secrets.token_urlsafe(24)
        write_atomically(file, password + "\n")
        return password

    def _launch(self, deadline: float, interrupted: Callable[[], bool]) -> None:
        for unfinished in self.data_dir.glob(_UNFINISHED + "*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        account, binaries = choose_binaries(self.data_dir, major=self._found_major())
        self.major = binaries.major
        if not self.initialised:
            self._initialise(account, binaries, deadline, interrupted)
        end_leftovers(self._cluster)
        account.take(self._cluster)
        self._socket_dir = make_socket_dir(self.data_dir, account)
        settings = {**self._settings, "unix_socket_directories": self._socket_dir}
        argv = [binaries.program("postgres"), "-D", str(self._cluster)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        with open_log(self.log) as output:
            self._process = account.start(argv, output=output)

    def _found_major(self) -> int | None:
        try:
            text = (self._cluster / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return None
        if not text.isdigit():
            raise ConfigurationError(
                "the data directory holds a database that is not PostgreSQL 14 or newer",
                code="postgres_version",
                path=str(self._cluster),
            )
        return int(text)

    def _initialise(
        self, account: Account, binaries: Binaries, deadline: float, interrupted: Callable[[], bool]
    ) -> None:
        """Make the cluster beside its place and move it there whole: a crash leaves only what the next removes."""
        if self._cluster.exists() and any(self._cluster.iterdir()):
            raise ConfigurationError(
                "the data directory holds a directory postgres that is not a PostgreSQL cluster: move it away",
                code="data_dir_unusable",
                path=str(self._cluster),
            )
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.data_dir))
        cluster, password_file = unfinished / "cluster", unfinished / "password"
        try:
            write_atomically(password_file, self._password() + "\n")
            account.take(unfinished)
            # Locale C: an upgrade of the system's C library never changes the order of an index.
            self._run(
                account,
                [
                    *(binaries.program("initdb"), "-D", str(cluster), "--username", USER, f"--pwfile={password_file}"),
                    *(
                        "--auth=scram-sha-256",
                        "--encoding=UTF8",
                        "--no-locale",
                        "--data-checksums",
                        "--no-instructions",
                    ),
                ],
                deadline,
                interrupted,
            )
            single = [
                binaries.program("postgres"),
                "--single",
                "-D",
                str(cluster),
                "-c",
                "exit_on_error=on",
                "postgres",
            ]
            self._run(account, single, deadline, interrupted, stdin=_DATABASE_SQL)
            cluster.rename(self._cluster)
            sync_directory(self.data_dir)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _run(
        self,
        account: Account,
        argv: list[str],
        deadline: float,
        interrupted: Callable[[], bool],
        *,
        stdin: Path | None = None,
    ) -> None:
        """Run one of PostgreSQL's programs to its end, its output to the log."""
        with open_log(self.log) as output, (stdin or Path("/dev/null")).open("rb") as source:
            process = account.start(argv, output=output, stdin=source)
        try:
            while process.poll() is None:
                self._check(deadline, interrupted)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise self._failed("PostgreSQL could not make its data directory")

    def _wait_until_ready(self, deadline: float, interrupted: Callable[[], bool]) -> None:
        """Wait until the postmaster says that it is ready, as pg_ctl does, then connect once: the password must fit."""
        process = self._process
        assert process is not None  # noqa: S101
        while not self._says_ready(process.pid):
            if process.poll() is not None:
                raise self._failed("PostgreSQL stopped while it started")
            self._check(deadline, interrupted)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        try:
            psycopg.connect(self._url(), connect_timeout=10).close()
        except psycopg.OperationalError:
            raise self._failed(
                "PostgreSQL runs but refuses its own user; is postgres.password from elsewhere?"
            ) from None

    def _says_ready(self, pid: int) -> bool:
        # Line 1 is the pid, line 8 the state: src/include/utils/pidfile.h of PostgreSQL.
        with suppress(OSError, ValueError):
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and int(lines[0]) == pid and lines[7].strip() == "ready"
        return False

    def _failed(self, message: str) -> Unavailable:
        return Unavailable(message, code="postgres_failed", log=str(self.log))

    def _check(self, deadline: float, interrupted: Callable[[], bool]) -> None:
        if interrupted():
            raise Unavailable("the start of PostgreSQL was interrupted", code="interrupted")
        if time.monotonic() > deadline:
            raise self._failed("PostgreSQL did not become ready in time")
