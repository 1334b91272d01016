"""A log that was restored into a server that counts transactions from elsewhere goes on behind its last entry."""

import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Literal
from tests.audit.logs import fill, problems, seal, verdict
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica
from tests.streams.sse_reading import reading

from bloom.base.errors import ConfigurationError
from bloom.db.migrate import upgrade


def count_from(database: FreshDatabase, ahead: int) -> None:
    """Number the transactions as a server would that had begun `ahead` more."""
    with database.connect() as owner:
        owner.execute(
            SQL(
                "create or replace function bloom.audit_ahead() returns bigint immutable language sql as 'select {}'"
            ).format(Literal(ahead))
        )
        owner.execute("""create or replace function bloom.audit_tx() returns xid8 language sql as
            'select (pg_current_xact_id()::text::bigint + bloom.audit_ahead())::text::xid8'""")


def restore_from_a_server_far_ahead(database: FreshDatabase) -> None:
    """Ten sealed entries, and one without a seal."""
    count_from(database, 1_000_000_000)
    fill(database, 10)
    assert seal(database) == 10
    fill(database, 1)
    count_from(database, 0)
    assert seal(database) == 0 and verdict(database).unsealed == 1


def test_what_is_written_after_the_restore_is_sealed_behind_the_rest(database: FreshDatabase) -> None:
    restore_from_a_server_far_ahead(database)
    assert upgrade(database.url) == []
    fill(database, 3)
    assert seal(database) == 4
    order = database.rows("select id from bloom.audit_log order by tx, id")
    assert [row["id"] for row in order] == list(range(1, 15))
    assert problems(database) == [] and verdict(database).found.last_n == 14


def test_a_follower_is_told_what_is_written_after_the_restore(
    database: FreshDatabase, start_replica: StartReplica
) -> None:
    restore_from_a_server_far_ahead(database)
    upgrade(database.url)
    runtime = start_replica()
    with reading(runtime, "/stream") as reader:
        reader.take(1)
        runtime.register("w")
        (heard,) = reader.take(1)
    assert heard.data["entity_id"] == "w"


def test_a_log_that_was_written_here_is_left_as_it_is(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register("w")
    upgrade(database.url)
    assert database.value("select bloom.audit_ahead()") == 0


def test_a_second_start_changes_nothing(database: FreshDatabase) -> None:
    restore_from_a_server_far_ahead(database)
    upgrade(database.url)
    ahead = database.value("select bloom.audit_ahead()")
    fill(database, 1)
    upgrade(database.url)
    assert database.value("select bloom.audit_ahead()") == ahead > 900_000_000


def test_who_does_not_own_the_schema_is_told_whom_to_ask(database: FreshDatabase) -> None:
    restore_from_a_server_far_ahead(database)
    with database.connect() as owner:
        owner.execute("create role bloom_guest login password 'guest'")
        try:
            owner.execute("grant usage on schema bloom to bloom_guest")
            owner.execute("grant select on all tables in schema bloom to bloom_guest")
            with pytest.raises(ConfigurationError, match="bloom db upgrade"):
                upgrade(make_conninfo(database.url, user="bloom_guest", password="guest"))
        finally:
            owner.execute("drop owned by bloom_guest")
            owner.execute("drop role bloom_guest")
