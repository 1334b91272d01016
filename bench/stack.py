"""A PostgreSQL of its own for a measurement, as the product embeds it, and the runtimes and workers that run on it."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import BinaryIO, LiteralString, Self
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from bench.filling import fill
from bench.usage import ProcessTree
from bloom.db.embedded import EmbeddedPostgres
from bloom.db.migrate import upgrade

START_TIMEOUT_SEC = 30
# Not the system's temporary directory: where that is in memory, fsync costs nothing.
PLACE = Path(__file__).parent.parent / ".build" / "bench"
EMPTY = "bloom"
_FULL = "full"
_LEAN = "lean"
_LEAN_SQL = Path(__file__).parent / "sql" / "lean.sql"


@dataclass(frozen=True)
class Runtime:
    """A `bloom serve` that answers. `port` is on loopback; `tree` is its process and its children."""

    url: str
    port: int
    key: str
    tree: ProcessTree


class Stack:
    """PostgreSQL in a temporary directory below `.build`, one database in it. Use as a context manager."""

    def __init__(self) -> None:
        PLACE.mkdir(parents=True, exist_ok=True)
        self._directory = tempfile.TemporaryDirectory(prefix="stack-", dir=PLACE)
        self.directory = Path(self._directory.name).absolute()
        self._postgres = EmbeddedPostgres(self.directory / "data")
        self._url = ""
        self._key = secrets.token_urlsafe(24)
        self.filled_words = ""
        self._lean = False

    def __enter__(self) -> Self:
        try:
            self._url = self._postgres.start()
            upgrade(self._url)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._postgres.stop()
        self._directory.cleanup()

    @property
    def postgres_log(self) -> Path:
        """What PostgreSQL writes."""
        return self._postgres.log

    @property
    def postgres(self) -> ProcessTree:
        """The processes of PostgreSQL."""
        assert self._postgres.pid is not None
        return ProcessTree(self._postgres.pid)

    def database_url(self, database: str = EMPTY) -> str:
        """The address of a database of this PostgreSQL."""
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    def connect(self, database: str = EMPTY) -> psycopg.Connection:
        """A connection in autocommit mode."""
        return psycopg.connect(self.database_url(database), autocommit=True)

    def create_database(self, name: str) -> None:
        """One more database, without any table; nothing when it is there."""
        with self.connect() as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
                connection.execute(SQL("create database {}").format(Identifier(name)))

    def empty(self, database: str = EMPTY) -> None:
        """Take all rows out of the tables, and write what is dirty, so that every run begins alike."""
        with self.connect(database) as connection:
            connection.execute("alter table bloom.audit_log disable trigger append_only")
            connection.execute("alter table bloom.audit_seals disable trigger append_only")
            connection.execute(
                "truncate bloom.tasks, bloom.workers, bloom.audit_log, bloom.audit_seals, bloom.counts restart identity cascade"
            )
            connection.execute("insert into bloom.counts default values")
            connection.execute("checkpoint")

    def filled(self, *, quick: bool) -> str:
        """The name of a database with full tables; filling it takes minutes, once. `quick`: a tenth of it."""
        if not self.filled_words:
            finished, queued = (100_000, 10_000) if quick else (1_000_000, 100_000)
            self.create_database(_FULL)
            upgrade(self.database_url(_FULL))
            with self.connect(_FULL) as connection:
                fill(connection, finished=finished, queued=queued)
            self.filled_words = f"{finished:,} finished and {queued:,} queued tasks"
        return _FULL

    def lean(self) -> str:
        """The name of a database with the product's tables, without foreign keys and without indexes but for ids."""
        if not self._lean:
            self.create_database(_LEAN)
            upgrade(self.database_url(_LEAN))
            with self.connect(_LEAN) as connection:
                connection.execute(_LEAN_SQL.read_bytes())
            self._lean = True
        return _LEAN

    @staticmethod
    def number(connection: psycopg.Connection, query: LiteralString) -> float:
        """The one number that `query` gives."""
        row = connection.execute(query).fetchone()
        assert row is not None
        return float(row[0])

    def client_environment(self, database: str = EMPTY) -> dict[str, str]:
        """Where the database is, for a program that uses libpq."""
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
        told = conninfo_to_dict(self.database_url(database))
        return {variable: str(told[name]) for name, variable in names.items()}

    @contextmanager
    def runtime(
        self, *, processes: int = 1, database: str = EMPTY, settings: Mapping[str, str] = MappingProxyType({})
    ) -> Generator[Runtime]:
        """`bloom serve` on a free port, with a key, without rate limits, with these settings. Ends it by its process id."""
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
            port = listener.getsockname()[1]
            environment = {
                "DATABASE_URL": self.database_url(database),
                "RUNTIME_API_KEY": self._key,
                "BLOOM_RATE_LIMIT": "off",
                "BLOOM_LOG_LEVEL": "warning",
                "BLOOM_DATA_DIR": str(self.directory),
                **settings,
            }
            arguments = ["serve", "--fd", str(listener.fileno())]
            if processes > 1:
                arguments += ["--processes", str(processes)]
            with _child(arguments, environment, keep=(listener.fileno(),)) as process:
                runtime = Runtime(f"http://127.0.0.1:{port}", port, self._key, ProcessTree(process.pid))
                _wait_until_healthy(runtime, process, processes)
                yield runtime

    @contextmanager
    def worker(self, runtime: Runtime, name: str, *, slots: int, command: Sequence[str]) -> Generator[int]:
        """A real worker daemon whose tasks run `command`; its process id."""
        home = self.directory / name
        home.mkdir()
        argv = ", ".join(f'"{word}"' for word in command)
        (home / "worker.toml").write_text(f'executor = "command"\n\n[command]\nargv = [{argv}]\n')
        arguments = ["worker", "--runtime", runtime.url, "--name", name, "--slots", str(slots), "--executor", "command"]
        environment = {"BLOOM_WORKER_DIR": str(home), "BLOOM_API_KEY": runtime.key}
        with (
            (home / "worker.log").open("wb") as log,
            _child([*arguments, "--config", str(home / "worker.toml")], environment, log=log) as process,
        ):
            yield process.pid


@contextmanager
def _child(
    arguments: list[str], environment: Mapping[str, str], *, keep: tuple[int, ...] = (), log: BinaryIO | None = None
) -> Generator[subprocess.Popen[bytes]]:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "bloom", *arguments],
        env={**inherited, **environment},
        pass_fds=keep,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(runtime: Runtime, process: subprocess.Popen[bytes], processes: int) -> None:
    """Until it answers and all its processes are there (the parent of several serves nothing itself)."""
    deadline = time.monotonic() + START_TIMEOUT_SEC
    while True:
        try:
            answered = httpx.get(f"{runtime.url}/api/runtime/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            answered = False
        if answered and (processes == 1 or runtime.tree.listening(runtime.port) >= processes):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the runtime did not come up")
        time.sleep(0.05)
