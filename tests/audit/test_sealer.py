"""The sealer: every entry in one chain, in one order, however late its transaction commits and however many seal."""

import asyncio
import hashlib
from typing import LiteralString

import pytest
from psycopg.sql import SQL
from tests.audit.logs import fill, on_pool, problems, seal, verdict, write
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import StartReplica

from bloom.audit import chain, sealing, store
from bloom.audit.sealing import AuditSealer
from bloom.db.pool import Database


def sealed_names(database: FreshDatabase) -> list[str]:
    """The entries that are sealed, in the order of the chain."""
    rows = database.rows("""
        select a.entity_id from bloom.audit_seals s cross join unnest(s.ids) with ordinality as i(id, n)
        join bloom.audit_log a on a.id = i.id order by s.first_n, i.n""")
    return [row["entity_id"] for row in rows]


def test_an_entry_that_commits_late_is_waited_for_and_sealed_in_its_place(database: FreshDatabase) -> None:
    with database.connect() as first:
        write(first, "first")
    with database.connect(autocommit=False) as older, database.connect() as younger:
        write(older, "older")
        write(younger, "younger")
        assert (seal(database), seal(database)) == (1, 0)
        tail = verdict(database)
        assert (tail.found.count, tail.unsealed) == (1, 1) and tail.unsealed_sec is not None
        older.commit()
    assert seal(database) == 2
    assert sealed_names(database) == ["first", "older", "younger"]
    assert problems(database) == [] and verdict(database).unsealed == 0


def test_a_transaction_that_has_its_number_but_has_not_written_yet_is_waited_for(database: FreshDatabase) -> None:
    """It took its number before all others, so its entry comes before theirs though it is written after them."""
    with database.connect(autocommit=False) as older, database.connect() as younger:
        older.execute("select pg_current_xact_id()")
        write(younger, "younger")
        assert seal(database) == 0
        write(older, "older")
        older.commit()
    assert seal(database) == 2
    assert sealed_names(database) == ["older", "younger"]


def test_what_is_rolled_back_leaves_no_gap_in_the_chain(database: FreshDatabase) -> None:
    with database.connect(autocommit=False) as undone, database.connect() as done:
        write(undone, "undone")
        write(done, "done")
        undone.rollback()
    assert seal(database) == 1 and problems(database) == []


def test_two_sealers_at_once_make_one_chain_while_others_write(
    database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "MOST_ENTRIES", 7)

    async def race(pool: Database) -> int:
        other = Database(database.url, size=2)
        await other.open()
        writing = asyncio.create_task(asyncio.to_thread(fill, database, 200))
        sealed = 0
        while not writing.done():
            sealed += sum(await asyncio.gather(*(AuditSealer(one).seal() for one in (pool, other, pool, other))))
        sealed += await AuditSealer(pool).seal()
        await other.close()
        return sealed

    assert on_pool(database, race) == 200
    found = verdict(database).found
    assert (found.count, found.last_n, found.problems) == (200, 200, [])
    assert len(set(sealed_names(database))) == 200


def test_while_one_seals_the_others_do_not_wait(database: FreshDatabase) -> None:
    fill(database, 3)

    async def race(pool: Database) -> tuple[int, int]:
        async with pool.transaction() as connection:
            assert await store.lock_chain(connection)
            meanwhile = await AuditSealer(pool).seal()
        return meanwhile, await AuditSealer(pool).seal()

    assert on_pool(database, race) == (0, 3)


@pytest.mark.parametrize(
    "session", ["timezone = 'Asia/Kathmandu'", "extra_float_digits = -15", "datestyle = 'sql, dmy'"]
)
def test_the_hashes_do_not_depend_on_the_settings_of_a_session(database: FreshDatabase, session: LiteralString) -> None:
    fill(database, 30)
    assert seal(database) == 30
    name = database.value("select current_database()")
    database.edit(SQL("alter database {} set ").format(SQL(name)).as_string() + session)  # pyright: ignore
    assert problems(database) == []


def test_the_database_and_this_program_hash_the_same_bytes(database: FreshDatabase) -> None:
    """What PostgreSQL stores is hashed: the exact text of `detail`, microseconds, text of all kinds."""
    fill(database, 100)
    for at in ("infinity", "-infinity", "1969-12-31 23:59:59.999999+00", "4713-01-01 BC", "294276-12-31"):
        database.edit(
            "insert into bloom.audit_log (at, action, entity_type, entity_id, actor) values (%(at)s, 'a', '', '', '')",
            at=at,
        )
    assert seal(database) == 105

    async def both(pool: Database) -> None:
        async with pool.transaction() as connection:
            last = await store.last_seal(connection)
            assert last is not None
            texts = await store.entries(connection, last.ids)
        own = chain.BEGINNING
        for entry_id in last.ids:
            own = chain.link(own, chain.digest(texts[entry_id]))
        assert own == last.hash
        first = texts[last.ids[0]]
        assert first["at"] == str(1795820400000000 + 1000001) and first["detail"].startswith('{"n" : 1, "text"')
        assert hashlib.sha256(b"\0" * 32 + chain.digest(first)).digest() == chain.link(
            chain.BEGINNING, chain.digest(first)
        )

    on_pool(database, both)
    assert problems(database) == []


def test_maintenance_seals_by_itself(start_replica: StartReplica, database: FreshDatabase) -> None:
    runtime = start_replica(maintenance=True)
    runtime.create()
    eventually(lambda: sealed_names(database), what="the sealer", within_sec=15)
    assert problems(database) == []
