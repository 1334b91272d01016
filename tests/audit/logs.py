"""Audit logs for tests: entries made by SQL, sealed, verified and changed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tests.real_postgres import FreshDatabase, SyncConnection

from bloom.audit.sealing import AuditSealer
from bloom.audit.verifying import Verdict, verify
from bloom.db.pool import Database

T = TypeVar("T")

ODD = 'Grüße 🌱 e\u0301 \u2028 \x01 \x7f " \\ \t'


def fill(database: FreshDatabase, count: int) -> None:
    """So many entries, of which some are odd; each was written at its own second."""
    database.edit(
        """insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
           select '2026-11-27 23:00+00'::timestamptz + n * interval '1.000001 s', 'task_created', 'task', 't' || n,
                  case when n %% 10 = 0 then %(odd)s else 'key:alice' end,
                  case when n %% 7 = 0 then ('{"n":' || n || ', "x" : 1.50e2,' || chr(10) || '"n" : "\\u0000"}')::json
                       else json_build_object('n', n, 'text', %(odd)s::text) end
           from generate_series(1, %(count)s) n""",
        count=count,
        odd=ODD,
    )


def write(connection: SyncConnection, name: str) -> None:
    """An entry of this name, in the transaction of `connection`."""
    connection.execute(
        "insert into bloom.audit_log (action, entity_type, entity_id, actor) values ('test', 'test', %s, 'test')",
        (name,),
    )


def on_pool(database: FreshDatabase, work: Callable[[Database], Awaitable[T]]) -> T:
    """The outcome of `work` with a pool of its own."""

    async def run() -> T:
        pool = Database(database.url, size=2)
        await pool.open()
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def seal(database: FreshDatabase) -> int:
    """Seal what is settled; how many entries."""
    return on_pool(database, lambda pool: AuditSealer(pool).seal())


def verdict(database: FreshDatabase, expected: Mapping[int, bytes] | None = None) -> Verdict:
    """What verifying finds."""
    return on_pool(database, lambda pool: verify(pool, expected or {}))


def problems(database: FreshDatabase, expected: Mapping[int, bytes] | None = None) -> list[tuple[int, int | None, str]]:
    """What is broken: (number, id, what)."""
    return [(found.n, found.entry_id, found.what) for found in verdict(database, expected).found.problems]
