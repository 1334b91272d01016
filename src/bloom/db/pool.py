"""The pool of PostgreSQL connections, and what its failures mean to a caller."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic_core import to_json

from bloom.base.errors import ConfigurationError, Unavailable

Connection = psycopg.AsyncConnection[DictRow]

CONNECT_TIMEOUT_SEC = 5
# A server whose machine is gone sends nothing, not even an end: the system finds out in these seconds, not in its two hours.
NOTICE_DEAD: dict[str, Any] = {
    "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000
}  # fmt: skip

# The planner cannot see how few rows LIMIT and the arrays of a statement leave, and would compile the claim, a statement of a
# millisecond, for some hundred. And what the queue looks up by id is in memory, not on a disk that turns: at the default of 4,
# a hundred look-ups seem dearer than reading a table of 20,000 tasks whole.
SESSION_SETTINGS = "set jit = off; set random_page_cost = 1.1"
WAIT_FOR_CONNECTION_SEC = 5.0


def database_unavailable() -> Unavailable:
    """The error that a caller sees while PostgreSQL does not answer; it names neither host nor user."""
    return Unavailable(
        "The database does not answer; try again in a moment.", code="database_unavailable", retry_after_sec=2
    )


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """Connections in use and at rest, how many there may be, and how many transactions wait for one."""

    busy: int
    idle: int
    limit: int
    waiting: int


class Database:
    """A bounded pool. `transaction()` is the only way to a connection, so that nothing forgets to commit."""

    def __init__(self, url: str, *, size: int) -> None:
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            connection_class=psycopg.AsyncConnection[DictRow],
            kwargs={
                "row_factory": dict_row,
                "connect_timeout": CONNECT_TIMEOUT_SEC,
                **NOTICE_DEAD,
                "application_name": "bloom-runtime",
            },
            min_size=min(2, size),
            max_size=size,
            timeout=WAIT_FOR_CONNECTION_SEC,
            reconnect_timeout=5,
            configure=_configure,
            open=False,
        )
        self._checking: asyncio.Task[None] | None = None
        self.now: datetime | None = None
        """The moment that the services take for now. None: the database's own clock; only tests move it."""

    async def open(self) -> None:
        """Start connecting; does not wait, a database that is away is met by 503 until it is back."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close all connections, after the transactions under way have ended."""
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection, None]:
        """A connection in a transaction: committed at the end, rolled back on any error.

        Raises Unavailable (`database_unavailable`) when PostgreSQL cannot be reached or goes away; whether a COMMIT under
        way then happened is unknown, which is why every write of the wire can be repeated.
        """
        try:
            async with self._pool.connection() as connection:
                try:
                    yield connection
                except psycopg.errors.ReadOnlySqlTransaction:
                    await (
                        connection.close()
                    )  # a standby, or a primary no longer: the next connection may meet the new one
                    raise
        # The pool's own errors (closed, no connection in time) are OperationalErrors too.
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction) as error:
            if isinstance(error, RETRYABLE):
                raise
            self._check_others()
            raise database_unavailable() from error
        except psycopg.Error as error:
            error.args = (_without_words(error),)
            raise

    async def look(self) -> None:
        """Return if the database answers. Raises Unavailable."""
        async with self.transaction() as connection:
            await connection.execute("select 1")

    def usage(self) -> PoolUsage:
        """How the pool is used at this moment."""
        stats = self._pool.get_stats()
        size, idle = stats["pool_size"], stats["pool_available"]
        return PoolUsage(size - idle, idle, self._pool.max_size, stats["requests_waiting"])

    def _check_others(self) -> None:
        """When one connection broke, the idle ones are likely broken too: find out before others are given them."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._pool.check(), name="pool-check")
            self._checking.add_done_callback(lambda task: task.cancelled() or task.exception())


async def _configure(connection: Connection) -> None:
    # Said here and not at the start of the session, which poolers refuse.
    await connection.execute(SESSION_SETTINGS)
    await connection.commit()


def _without_words(error: psycopg.Error) -> str:
    """What of `error` may be logged: its own words can quote rows, and so prompts and outputs."""
    names = (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)
    return " ".join(["SQLSTATE", error.sqlstate or "unknown", *(name for name in names if name)])


RETRYABLE = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation)
"""Errors after which the same transaction, run again, is right: somebody else came first."""


def check_url(name: str, url: str) -> None:
    """Raise ConfigurationError that names the variable `name` when `url`, its value, cannot be the address of a PostgreSQL."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigurationError(f"{name} must be of the form postgresql://user:password@host:5432/name") from None


def as_json(value: Any) -> str:
    """A parameter that a statement unfolds by json_to_recordset: many rows in one value, at a third of json.dumps's time."""
    return to_json(value).decode()


async def fetch_all(connection: Connection, query: bytes, params: dict[str, Any]) -> list[DictRow]:
    """All rows of `query`."""
    cursor = await connection.execute(query, params)
    return await cursor.fetchall()


async def fetch_one(connection: Connection, query: bytes, params: dict[str, Any]) -> DictRow | None:
    """The first row of `query`, or None."""
    cursor = await connection.execute(query, params)
    return await cursor.fetchone()
