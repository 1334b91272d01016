"""How the database is."""

from dataclasses import dataclass

from bloom.db.pool import Database, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.db", "state.sql")


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """`revision` is that of the schema; `connections` are all to this database, `max_connections` what the server takes."""

    version: str
    size_bytes: int
    revision: str
    connections: int
    max_connections: int


async def read_state(database: Database) -> DatabaseState:
    """The state at this moment. Raises Unavailable."""
    async with database.transaction() as connection:
        row = await fetch_one(connection, _SQL["state"], {})
    assert row is not None  # noqa: S101 - a select without a table has one row
    return DatabaseState(**row)
