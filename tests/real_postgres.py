"""One real PostgreSQL per test process, and a database of its own for each test."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier

from bloom.db.embedded import EmbeddedPostgres
from bloom.db.migrate import upgrade

PATIENCE_SEC = 5.0
_TEMPLATE = "template"
_RAM = Path("/dev/shm")
_RAM_NEEDED_BYTES = 2 * 1024**3

T = TypeVar("T")
SyncConnection = psycopg.Connection[DictRow]


def eventually(look: Callable[[], T], *, what: str = "it", within_sec: float = PATIENCE_SEC) -> T:
    """The first true value of `look`, which is asked again and again; fails after `within_sec`."""
    deadline = time.monotonic() + within_sec
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {within_sec} s in vain: {what}"
        time.sleep(0.01)
    return found


class FreshDatabase:
    """One database, with a connection for the test's own questions and edits."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: SyncConnection | None = None

    def connect(self, *, autocommit: bool = True) -> SyncConnection:
        """A connection of the caller's own."""
        return SyncConnection.connect(self.url, autocommit=autocommit, row_factory=dict_row, application_name="test")

    def rows(self, query: LiteralString, **params: Any) -> list[DictRow]:
        """The rows of `query`."""
        return self._connected().execute(query, params).fetchall()

    def row(self, query: LiteralString, **params: Any) -> DictRow:
        """The one row of `query`."""
        found = self.rows(query, **params)
        assert len(found) == 1, found
        return found[0]

    def value(self, query: LiteralString, **params: Any) -> Any:
        """The one value of `query`."""
        (value,) = self.row(query, **params).values()
        return value

    def edit(self, statement: LiteralString, **params: Any) -> int:
        """Carry out `statement`; how many rows it touched."""
        return self._connected().execute(statement, params).rowcount

    def dump(self) -> dict[str, list[str]]:
        """All rows of all tables, in a form to be compared."""
        tables = self.rows(
            "select relname from pg_stat_user_tables where schemaname = 'bloom' and relname <> 'alembic_version'"
        )
        content: dict[str, list[str]] = {}
        for table in sorted(str(row["relname"]) for row in tables):
            query = SQL("select * from bloom.{}").format(Identifier(table))
            content[table] = sorted(json.dumps(row, default=str) for row in self._connected().execute(query).fetchall())
        return content

    def expire(self, lease_id: str) -> None:
        """Let the lease have ended a second ago, unseen by anybody."""
        assert self.edit(
            "update bloom.leases set expires_at = now() - interval '1 second' where id = %(id)s", id=lease_id
        )

    def make_due(self, task_id: str) -> None:
        """Let the time for which a task waits have come a second ago, unseen by anybody."""
        assert self.edit("update bloom.tasks set run_at = now() - interval '1 second' where id = %(id)s", id=task_id)

    def blocked(self) -> int:
        """How many connections to this database wait for a lock."""
        return self.value(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )

    def wait_until_blocked(self, count: int = 1) -> None:
        """Return when `count` connections wait for locks."""
        # Whoever is to wait may be a program that starts only now, on a busy machine.
        eventually(lambda: self.blocked() >= count, what=f"{count} connections that wait for a lock", within_sec=20)

    @contextmanager
    def audit_closed(self) -> Generator[None]:
        """Whoever changes a state stops within, its rows locked and changed but not committed: nobody can write audit."""
        with self.connect(autocommit=False) as gate:
            gate.execute("lock table bloom.audit_log in share mode")
            yield

    @contextmanager
    def unguarded(self) -> Generator[None]:
        """The audit log and its seals can be changed within, as by somebody who owns the tables."""
        tables = ("audit_log", "audit_seals")
        for table in tables:
            self._connected().execute(SQL("alter table bloom.{} disable trigger append_only").format(Identifier(table)))
        yield
        for table in tables:
            self._connected().execute(
                SQL("alter table bloom.{} enable always trigger append_only").format(Identifier(table))
            )

    def _connected(self) -> SyncConnection:
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def close(self) -> None:
        """Close the test's own connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class PostgresServer:
    """A PostgreSQL where databases can be made: the embedded one, or that of BLOOM_TEST_DATABASE_URL."""

    def __init__(self, url: str, embedded: EmbeddedPostgres | None) -> None:
        self._url = url
        self._admin = psycopg.connect(url, autocommit=True)
        # Copying files is ten times as fast as logging each page; it is the only way before PostgreSQL 15.
        self._strategy = SQL("strategy file_copy" if self._admin.info.server_version >= 150000 else "")
        self._prefix = f"bloom_test_{os.getpid()}_"
        self._made = 0
        self.embedded = embedded
        self._admin.execute(SQL("create database {}").format(Identifier(self._prefix + _TEMPLATE)))
        upgrade(self.url_of(self._prefix + _TEMPLATE))

    def url_of(self, name: str) -> str:
        """The URL of the database `name`."""
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    @contextmanager
    def database(self, *, empty: bool = False) -> Generator[FreshDatabase]:
        """A new database with the newest schema, or an `empty` one; dropped at the end, whoever is still connected."""
        self._made += 1
        name = f"{self._prefix}{self._made}"
        source = Identifier("template0" if empty else self._prefix + _TEMPLATE)
        self._admin.execute(SQL("create database {} template {} {}").format(Identifier(name), source, self._strategy))
        database = FreshDatabase(self.url_of(name))
        try:
            yield database
        finally:
            database.close()
            self._drop(name)

    def value(self, query: LiteralString, *params: Any) -> Any:
        """The one value of `query`, asked outside all test databases."""
        row = self._admin.execute(query, params).fetchone()
        assert row is not None
        return row[0]

    def close(self) -> None:
        """Remove what was made."""
        self._drop(self._prefix + _TEMPLATE)
        self._admin.close()

    def _drop(self, name: str) -> None:
        self._admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))


@contextmanager
def running_server() -> Generator[PostgresServer]:
    """The server of this test process: BLOOM_TEST_DATABASE_URL's, else an embedded one in a directory of its own."""
    url = os.environ.get("BLOOM_TEST_DATABASE_URL")
    if url is not None:
        server = PostgresServer(url, None)
        try:
            yield server
        finally:
            server.close()
        return
    # In memory where there is room: what is tried here is not the disk.
    in_ram = _RAM.is_dir() and shutil.disk_usage(_RAM).free > _RAM_NEEDED_BYTES
    with (
        tempfile.TemporaryDirectory(prefix="bloom-test-", dir=_RAM if in_ram else None) as directory,
        EmbeddedPostgres(Path(directory) / "data", settings={"max_connections": 200}) as postgres,
    ):
        server = PostgresServer(postgres.start(), postgres)
        try:
            yield server
        finally:
            server.close()
