"""The stream of the audit log: each entry once and in one order, from whichever replica, however late it commits."""

import random

import pytest
from tests.real_postgres import FreshDatabase, SyncConnection
from tests.real_runtime import Replica, StartReplica, refused
from tests.streams.sse_reading import Heard, reading

from bloom.audit import store


def write(connection: SyncConnection, name: str) -> None:
    """An audit entry of this name, in the transaction of `connection`."""
    connection.execute(
        "insert into bloom.audit_log (action, entity_type, entity_id, actor) values ('test', 'test', %s, 'test')",
        (name,),
    )


def names(heard: list[Heard]) -> list[str]:
    return [event.data["entity_id"] for event in heard]


def test_what_happens_is_told_as_it_happens(runtime: Replica) -> None:
    runtime.create()
    with reading(runtime, "/stream") as reader:
        (start,) = reader.take(1)
        assert start.event == "start"
        runtime.register("w")
        task = runtime.create()
        runtime.lease(task["id"], "w")
        heard = reader.take(3)
    assert [(event.event, event.data["action"], event.data["entity_id"]) for event in heard] == [
        ("audit", "worker_registered", "w"),
        ("audit", "task_created", task["id"]),
        ("audit", "task_leased", task["id"]),
    ]
    newest_first = runtime.get("/audit", limit=3).json()
    assert [event.data for event in heard] == list(reversed(newest_first))


def test_an_older_transaction_that_commits_late_is_not_lost(runtime: Replica, database: FreshDatabase) -> None:
    with reading(runtime, "/stream") as reader:
        (start,) = reader.take(1)
        with database.connect(autocommit=False) as older:
            write(older, "older")
            with database.connect(autocommit=False) as younger:
                write(younger, "younger")
                younger.commit()
            with database.connect() as third:
                write(third, "third")
            # Whoever read what has committed by now, and went on behind it, would miss the older one.
            seen_too_early = database.rows("select entity_id from bloom.audit_log order by id")
            assert [row["entity_id"] for row in seen_too_early] == ["younger", "third"]
            older.commit()
        assert names(reader.take(3)) == ["older", "younger", "third"]
    with reading(runtime, "/stream", start.id) as again:
        assert names(again.take(4)[1:]) == ["older", "younger", "third"]


def test_nothing_is_told_while_an_older_transaction_is_under_way(runtime: Replica, database: FreshDatabase) -> None:
    services = runtime.services
    start = runtime.run(services.audit.position(None))

    async def look() -> list[str]:
        async with services.database.transaction() as connection:
            found = await store.in_commit_order(connection, after=start, limit=10)
        return [entry.entity_id for _, entry in found]

    with database.connect(autocommit=False) as older, database.connect() as younger:
        write(older, "older")
        write(younger, "younger")
        assert runtime.run(look()) == []
        older.rollback()
        assert runtime.run(look()) == ["younger"]


def test_no_entry_is_lost_or_doubled_by_readers_that_reconnect_to_another_replica(
    runtime: Replica, start_replica: StartReplica, database: FreshDatabase
) -> None:
    """Transactions that overlap at random, while a reader comes and goes."""
    fronts = [runtime, start_replica()]
    chance = random.Random(3)  # noqa: S311 - no secret
    written: list[str] = []
    with reading(runtime, "/stream") as reader:
        after = reader.take(1)[0].id
    heard: list[str] = []
    open_ones: list[tuple[SyncConnection, list[str]]] = []
    for n in range(300):
        connection = database.connect(autocommit=False)
        group = [f"{n}-{k}" for k in range(chance.randrange(1, 4))]
        for name in group:
            write(connection, name)
        open_ones.append((connection, group))
        while len(open_ones) > 8 or (n == 299 and open_ones):
            connection, group = open_ones.pop(chance.randrange(len(open_ones)))
            if chance.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
                written += group
            connection.close()
        if n % 30 == 29:
            settled = database.value(
                "select count(*) from bloom.audit_log where tx < pg_snapshot_xmin(pg_current_snapshot())"
            )
            with reading(fronts[n // 30 % 2], "/stream", after) as reader:
                taken = reader.take(1 + settled - len(heard))[1:]
            heard += names(taken)
            after = taken[-1].id if taken else after
    assert sorted(heard) == sorted(written)
    in_order = database.rows("select entity_id from bloom.audit_log order by tx, id")
    assert heard == [row["entity_id"] for row in in_order]


@pytest.mark.parametrize("bad", ["x", "1", "1-", "-1", "1-2-3", f"{2**63}-1", "1-9223372036854775808", "9000000000-1"])
def test_a_last_event_id_of_another_stream_is_refused(quiet_runtime: Replica, bad: str) -> None:
    assert refused(quiet_runtime.http.get("/stream", headers={"Last-Event-ID": bad}), 400) == "invalid"
