"""The load generators and PostgreSQL's limit do the work that they are said to do."""

import asyncio
from collections.abc import Generator
from dataclasses import replace

import pytest
from bench.filling import fill
from bench.load.http import Connection, Refused
from bench.runs import load
from bench.stack import Runtime, Stack

from bench import limit
from bloom.db.migrate import upgrade


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    with Stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def runtime(stack: Stack) -> Generator[Runtime]:
    with stack.runtime() as runtime:
        yield runtime


_HALF_WAY = "select count(*) from bloom.tasks where status not in ('completed', 'queued')"
_COMPLETED = "select count(*) from bloom.tasks where status = 'completed'"
_WHOLE = """select count(*) from bloom.tasks t
            join bloom.leases l on l.id = t.lease_id and l.task_id = t.id and l.status = 'released'
                 and l.last_heartbeat is not null
            join bloom.results r on r.lease_id = l.id and r.task_id = t.id and r.status = 'success'
            join bloom.artifacts a on a.id = r.artifact_id and a.task_id = t.id and length(a.content) = 2048
            where t.status = 'completed' and length(t.prompt) = 1024 and 3 = (
                select count(*) from bloom.audit_log e
                where e.entity_id = t.id and e.action in ('task_created', 'task_leased', 'task_completed'))"""


def _assert_whole(stack: Stack) -> float:
    """How many tasks were completed; each has all that belongs to it, and none was left half-way."""
    with stack.connect() as connection:
        completed = stack.number(connection, _COMPLETED)
        assert completed > 0
        assert stack.number(connection, _WHOLE) == completed
        assert stack.number(connection, _HALF_WAY) == 0
        return completed


@pytest.mark.parametrize("script", [limit.SINGLE, limit.BATCH])
def test_the_limit_counts_the_whole_tasks_that_it_leaves_behind(stack: Stack, script: str) -> None:
    stack.empty()
    run = limit.measure(stack, script, clients=2, seconds=1)
    assert run.per_sec * run.seconds == pytest.approx(_assert_whole(stack))
    assert run.cores.keys() == {"PostgreSQL", "generator", "others"}


@pytest.mark.parametrize("name", ["life", "protocol"])
def test_a_load_completes_what_it_counts(stack: Stack, runtime: Runtime, name: str) -> None:
    stack.empty()
    run = load(stack, runtime, name, clients=3, seconds=1, warm_up_sec=0.2)
    assert _assert_whole(stack) >= round(run.per_sec * run.seconds) > 0
    assert run.cores.keys() == {"server", "PostgreSQL", "generator", "others"}
    assert run.server_mib is not None and run.server_mib > 10


def test_a_load_that_is_refused_is_no_figure(stack: Stack, runtime: Runtime, capfd: pytest.CaptureFixture[str]) -> None:
    stranger = replace(runtime, key="another key")
    with pytest.raises(RuntimeError, match="before it began"):
        load(stack, stranger, "life", clients=1, seconds=1, warm_up_sec=0.2)
    assert "401" in capfd.readouterr().err


def test_a_filled_database_is_sound(stack: Stack) -> None:
    stack.create_database("small")
    upgrade(stack.database_url("small"))
    with stack.connect("small") as connection:
        fill(connection, finished=200, queued=50)
        foreign = connection.execute(
            "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint "
            "where contype = 'f' and connamespace = 'bloom'::regnamespace"
        ).fetchall()
        assert foreign
    with stack.connect("small") as connection:
        # What was not checked while it was filled is checked now: every constraint is made anew.
        for table, name, definition in foreign:
            connection.execute(f"alter table {table} add constraint again_{name} {definition}".encode())
        assert stack.number(connection, "select count(*) from bloom.tasks where status = 'queued'") == 50
        assert (
            stack.number(connection, "select sum(queued + completed + failed + dead + cancelled) from bloom.counts")
            == 250
        )


def test_the_client_takes_answers_in_pieces_and_refuses_other_codes() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nContent-",
        b"Length: 5\r\n\r\nhe",
        b"llo",
        b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pieces in (answers[:3], answers[3:]):
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def ask() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            connection = await Connection.open(server.sockets[0].getsockname()[1], "key")
            assert await connection.get("/stats") == b"hello"
            with pytest.raises(Refused, match="503"):
                await connection.get("/stats")
            connection.close()

    asyncio.run(ask())
