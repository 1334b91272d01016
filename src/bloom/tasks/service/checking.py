"""Whether the tables tell a story that the runtime can have written."""

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import DictRow, dict_row

from bloom.db.pool import CONNECT_TIMEOUT_SEC, database_unavailable
from bloom.tasks.store import invariants
from bloom.tasks.store.invariants import INVARIANTS, Broken

__all__ = ["INVARIANTS", "Broken", "check"]


async def check(database_url: str) -> list[Broken]:
    """The invariants that do not hold, all looked at in one snapshot that writes nothing: others may go on meanwhile.

    Raises Unavailable when the database does not answer or goes away.
    """
    try:
        async with await psycopg.AsyncConnection[DictRow].connect(
            database_url, row_factory=dict_row, connect_timeout=CONNECT_TIMEOUT_SEC, application_name="bloom-check"
        ) as connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
            found = [await invariants.find_broken(connection, name) for name in INVARIANTS]
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise database_unavailable() from error
    return [broken for broken in found if broken is not None]
