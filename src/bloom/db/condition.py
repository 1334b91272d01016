"""What a PostgreSQL is like that somebody else runs: for whoever has to say whether it will do."""

import time
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from bloom.db.migrate import current_revision
from bloom.db.pool import CONNECT_TIMEOUT_SEC, database_unavailable
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.db", "condition.sql")


@dataclass(frozen=True, slots=True)
class DatabaseCondition:
    """A database as it is now. `revision` None: without our schema. `clock_ahead_sec`: how far its clock is before ours."""

    version: str
    version_number: int
    encoding: str
    fsync: bool
    full_page_writes: bool
    synchronous_commit: bool
    read_only: bool
    max_connections: int
    may_create: bool
    revision: str | None
    clock_ahead_sec: float


def condition_of(database_url: str) -> DatabaseCondition:
    """Ask the database. Raises Unavailable when it does not answer."""
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            before = time.time()
            row = connection.cursor(row_factory=dict_row).execute(_SQL["condition"]).fetchone()
            between = (before + time.time()) / 2
    except psycopg.OperationalError as error:
        raise database_unavailable() from error
    assert row is not None  # noqa: S101 (a database is in the list of databases)
    clock = float(row.pop("clock"))
    return DatabaseCondition(**row, revision=current_revision(database_url), clock_ahead_sec=clock - between)
