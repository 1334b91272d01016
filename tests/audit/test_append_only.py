"""Nobody changes what the audit log says: a trigger refuses all, and grants refuse whoever could remove the trigger."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from tests.audit.logs import fill, problems, seal
from tests.real_postgres import FreshDatabase, PostgresServer
from tests.real_runtime import Replica, told
from tests.runtime.invariants import check_invariants

from bloom.audit.sealing import AuditSealer

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"

CHANGES = [
    "update bloom.{} set {} = {}",
    "delete from bloom.{}",
    "truncate bloom.{}",
    "truncate bloom.{} cascade",
]
AROUND = [
    "alter table bloom.{} disable trigger append_only",
    "drop trigger append_only on bloom.{}",
    "drop table bloom.{}",
    "create or replace function bloom.refuse_change() returns trigger language plpgsql as 'begin return null; end'",
]


@pytest.fixture(scope="module")
def log(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """A log of two sealed entries."""
    with postgres_server.database() as database:
        fill(database, 2)
        assert seal(database) == 2
        yield database


@pytest.mark.parametrize(("table", "column"), [("audit_log", "actor"), ("audit_seals", "hash")])
@pytest.mark.parametrize("change", CHANGES)
def test_whoever_owns_the_tables_can_only_add(log: FreshDatabase, table: str, column: str, change: str) -> None:
    before = log.dump()
    with log.connect() as owner:
        for triggers in ("origin", "replica", "local"):
            owner.execute(SQL("set session_replication_role = {}").format(Identifier(triggers)))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"bloom.{table} is append-only"):
                owner.execute(change.format(table, column, column).encode())
    assert log.dump() == before


def test_an_upsert_is_no_way_around_it(log: FreshDatabase) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        log.edit("""
            insert into bloom.audit_log (id, action, entity_type, entity_id, actor) overriding system value
            values (1, 'a', 't', 'i', 'w') on conflict (id) do update set actor = 'w'""")


def test_a_runtime_that_does_not_own_the_tables_serves_and_can_only_add(database: FreshDatabase) -> None:
    """With the grants that docs/audit.md gives."""
    name = "bloom_runtime"
    (grants,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    parts = urlsplit(database.url)
    with database.connect() as owner:
        owner.execute(SQL("create role {} login password 'serves'").format(Identifier(name)))
        try:
            owner.execute(grants.encode())
            url = parts._replace(netloc=f"{name}:serves@{parts.netloc.rpartition('@')[2]}").geturl()
            with Replica(url) as runtime:
                runtime.register()
                task, lease = runtime.leased()
                told(runtime.complete(task["id"], lease["id"]))
                assert runtime.run(AuditSealer(runtime.services.database).seal()) > 0
            check_invariants(database)
            assert problems(database) == []
            with psycopg.connect(url, autocommit=True) as served:
                for table, column in (("audit_log", "at"), ("audit_seals", "sealed_at")):
                    for change in (*CHANGES, *AROUND):
                        with pytest.raises(psycopg.errors.InsufficientPrivilege):
                            served.execute(change.format(table, column, "now()").encode())
            owner.execute("create table bloom.of_a_later_release (id bigint)")
            with psycopg.connect(url, autocommit=True) as served:
                served.execute("insert into bloom.of_a_later_release values (1)")
        finally:
            owner.execute(SQL("drop owned by {}").format(Identifier(name)))
            owner.execute(SQL("drop role {}").format(Identifier(name)))
