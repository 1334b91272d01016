"""Typed calls of the SQL that copies whole tables: asynchronous out of a database, and synchronous into one, within the
transaction of the migrations."""

from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from bloom.artifacts.store import OBJECTS_LOCK
from bloom.backup.errors import BackupDamaged
from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.backup", "tables.sql")

TELL_OF_USE = (
    "bloom.audit_log",
    "bloom.tasks",
    "bloom.workers",
    "bloom.keys",
    "membridge.projects",
    "membridge.agents",
)
"""Tables that only work puts rows into: one row in one of them, and the database is not empty."""


@dataclass(frozen=True, slots=True)
class Table:
    """Names are quoted."""

    name: str
    columns: Sequence[str]


async def begin(connection: Connection) -> None:
    """One moment for all reads of this transaction."""
    await connection.execute(_SQL["begin"])


async def hold_objects(connection: Connection) -> None:
    """Keep the objects of tasks that are pruned from now on, until this transaction ends. Call it before `begin` elsewhere."""
    await connection.execute(_SQL["hold_objects"], {"lock": OBJECTS_LOCK})


async def revision(connection: Connection) -> str:
    """The revision of the schema."""
    row = await fetch_one(connection, _SQL["revision"], {})
    assert row is not None  # noqa: S101
    return row["version_num"]


async def tables(connection: Connection) -> list[Table]:
    """All tables of ours."""
    return [Table(**row) for row in await fetch_all(connection, _SQL["tables"], {})]


async def sequences(connection: Connection) -> dict[str, int]:
    """How far each identity has counted."""
    return {row["name"]: row["value"] for row in await fetch_all(connection, _SQL["sequences"], {})}


async def objects(connection: Connection) -> AsyncGenerator[Mapping[str, Any]]:
    """(key, size, sha256) of what artifacts have in the object store."""
    async with connection.cursor("objects") as cursor:
        await cursor.execute(_SQL["objects"])
        async for row in cursor:
            yield row


class RowsOut:
    """The rows of a table, as COPY writes them; `count` is known at their end."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._query = _named("copy_out", table=table.name, columns=", ".join(table.columns))
        self.count = 0

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async with self._connection.cursor() as cursor:
            async with cursor.copy(self._query) as copy:
                async for data in copy:
                    yield bytes(data)
            self.count = cursor.rowcount


def holds_work(connection: psycopg.Connection[Any]) -> bool:
    """Whether the database holds more than a migration puts there."""
    return any(
        _value(connection, _SQL["exists"], {"name": name}) and _value(connection, _named("has_rows", table=name))
        for name in TELL_OF_USE
    )


def drop_all(connection: psycopg.Connection[Any]) -> None:
    """Drop both schemas, and leave an empty one for the migrations."""
    connection.execute(_SQL["drop_all"])


def drop_references(connection: psycopg.Connection[Any]) -> list[bytes]:
    """Drop all foreign keys; the statements that make them again."""
    found = connection.execute(_SQL["foreign_keys"], {}).fetchall()
    for name, constraint, _ in found:
        connection.execute(_named("drop_reference", table=name, constraint=constraint))
    return [
        _named("make_reference", table=name, constraint=constraint, definition=definition)
        for name, constraint, definition in found
    ]


def make_references(connection: psycopg.Connection[Any], statements: Sequence[bytes]) -> None:
    """Make them again, and check all rows. Raises BackupDamaged where one points nowhere."""
    try:
        for statement in statements:
            connection.execute(statement)
    except psycopg.IntegrityError as error:
        raise BackupDamaged("The archive holds rows that point nowhere.") from error


def known_tables(connection: psycopg.Connection[Any]) -> dict[str, Table]:
    """All tables of ours, by name."""
    return {name: Table(name, columns) for name, columns in connection.execute(_SQL["tables"], {}).fetchall()}


async def copy_in(connection: psycopg.Connection[Any], table: Table, rows: AsyncIterable[bytes]) -> int:
    """Replace the rows of a table by these; how many they are. Raises BackupDamaged for what are no rows of it."""
    if _value(connection, _named("has_rows", table=table.name)):
        connection.execute(_named("clear", table=table.name))
    try:
        with connection.cursor() as cursor:
            with cursor.copy(_named("copy_in", table=table.name, columns=", ".join(table.columns))) as copy:
                async for chunk in rows:
                    copy.write(chunk)
            return cursor.rowcount
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise BackupDamaged(f"The archive holds what is no row of {table.name}.") from error


def advance(connection: psycopg.Connection[Any], values: Mapping[str, int]) -> None:
    """Let identities go on behind these."""
    for name, value in values.items():
        connection.execute(_SQL["advance"], {"name": name, "value": value})


def point_to_store(connection: psycopg.Connection[Any], prefix: str) -> None:
    """Name the objects of the artifacts by URLs that begin with `prefix`."""
    connection.execute(_SQL["point_to_store"], {"prefix": prefix})


def _named(query: str, **names: str) -> bytes:
    sql = _SQL[query]
    for place, name in names.items():
        sql = sql.replace(f"/* {place} */".encode(), name.encode())
    return sql


def _value(connection: psycopg.Connection[Any], query: bytes, params: Mapping[str, Any] | None = None) -> Any:
    row = connection.execute(query, params or {}).fetchone()
    assert row is not None  # noqa: S101
    return row[0]
