"""What the database is like: whether one that somebody else runs will do, and how the one in use is."""

import time
from dataclasses import dataclass

import psycopg
from psycopg.rows import dict_row

from bloom.db.migrate import current_revision
from bloom.db.pool import CONNECT_TIMEOUT_SEC, Database, database_unavailable, fetch_one
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


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """`revision` is that of the schema; `connections` are all to this database, `max_connections` what the server takes."""

    version: str
    size_bytes: int
    revision: str
    connections: int
    max_connections: int


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


async def read_state(database: Database) -> DatabaseState:
    """The state at this moment. Raises Unavailable."""
    async with database.transaction() as connection:
        row = await fetch_one(connection, _SQL["state"], {})
    assert row is not None  # noqa: S101 - a select without a table has one row
    return DatabaseState(**row)
