"""News between processes: who is woken by what, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from tests.real_postgres import FreshDatabase

from bloom.db.hub import CHANNEL, EVERYTHING, MAX_PAYLOAD_BYTES, QUEUE, Hub, notify, task_topic

pytestmark = pytest.mark.anyio
PATIENCE_SEC = 5
AT_ONCE_SEC = 0


@asynccontextmanager
async def listening(database: FreshDatabase) -> AsyncGenerator[Hub]:
    """A hub that listens."""
    hub = Hub(database.url)
    running = asyncio.create_task(hub.run())
    try:
        await asyncio.wait_for(hub.listening.wait(), PATIENCE_SEC)
        yield hub
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@asynccontextmanager
async def connected(database: FreshDatabase) -> AsyncGenerator[psycopg.AsyncConnection[DictRow]]:
    """A connection of another process."""
    async with await psycopg.AsyncConnection[DictRow].connect(database.url, row_factory=dict_row) as connection:
        yield connection


async def announce(database: FreshDatabase, *topics: str) -> None:
    async with connected(database) as connection:
        await notify(connection, topics)


async def test_news_wake_those_who_subscribed_to_their_topic_and_nobody_else(database: FreshDatabase) -> None:
    async with listening(database) as hub:
        one, other, queue, many = task_topic("one"), task_topic("other"), QUEUE, (QUEUE, task_topic("one"))
        with hub.subscribe(one) as a, hub.subscribe(other) as b, hub.subscribe(queue) as c, hub.subscribe(*many) as d:
            await announce(database, one)
            assert await a.wait(PATIENCE_SEC) and await d.wait(PATIENCE_SEC)
            assert not await b.wait(AT_ONCE_SEC) and not await c.wait(AT_ONCE_SEC)
            await announce(database, queue, other)
            assert await b.wait(PATIENCE_SEC) and await c.wait(PATIENCE_SEC) and await d.wait(PATIENCE_SEC)
            assert not await a.wait(AT_ONCE_SEC)
    assert not hub.subscriptions


async def test_news_come_with_the_commit_and_not_at_all_with_a_rollback(database: FreshDatabase) -> None:
    async with listening(database) as hub, connected(database) as connection:
        with hub.subscribe(QUEUE) as queue, hub.subscribe("last") as last:
            await notify(connection, [QUEUE])
            await announce(database, "last")
            assert await last.wait(PATIENCE_SEC) and not await queue.wait(AT_ONCE_SEC)
            await connection.rollback()
            await announce(database, "last")
            assert await last.wait(PATIENCE_SEC) and not await queue.wait(AT_ONCE_SEC)
            await notify(connection, [QUEUE])
            await connection.commit()
            assert await queue.wait(PATIENCE_SEC)


async def test_many_topics_are_one_notification_and_too_many_tasks_wake_whoever_follows_one(
    database: FreshDatabase,
) -> None:
    async with connected(database) as listener, connected(database) as connection:
        await listener.set_autocommit(True)
        await listener.execute(f"listen {CHANNEL}")
        for count in (0, 1, 3, 100):
            await notify(connection, [*(task_topic(f"{n:036}") for n in range(count)), *([QUEUE] if count else [])])
            await connection.commit()
        payloads = [n.payload async for n in listener.notifies(timeout=PATIENCE_SEC, stop_after=3)]
    assert [len(payload.split()) for payload in payloads] == [2, 4, 2] and payloads[-1] == f"task:* {QUEUE}"
    assert all(len(payload.encode()) <= MAX_PAYLOAD_BYTES for payload in payloads)

    async with listening(database) as hub:
        with hub.subscribe(task_topic("one")) as a, hub.subscribe(EVERYTHING) as b, hub.subscribe(QUEUE) as queue:
            await announce(database, *(task_topic(f"{n:036}") for n in range(100)))
            assert await a.wait(PATIENCE_SEC) and await b.wait(PATIENCE_SEC) and not await queue.wait(AT_ONCE_SEC)


async def test_news_between_two_waits_are_not_missed_and_count_once(database: FreshDatabase) -> None:
    async with listening(database) as hub:
        with hub.subscribe(QUEUE) as queue, hub.subscribe("after") as after:
            for _ in range(3):
                await announce(database, QUEUE)
            await announce(database, "after")
            assert await after.wait(PATIENCE_SEC)
            assert await queue.wait(AT_ONCE_SEC) is True
            assert await queue.wait(AT_ONCE_SEC) is False


async def test_a_process_can_wake_its_own_by_topic_or_all(database: FreshDatabase) -> None:
    hub = Hub(database.url)
    with hub.subscribe(QUEUE) as queue, hub.subscribe("other") as other:
        hub.wake(QUEUE)
        assert await queue.wait(AT_ONCE_SEC) and not await other.wait(AT_ONCE_SEC)
        hub.wake()
        assert await queue.wait(AT_ONCE_SEC) and await other.wait(AT_ONCE_SEC)


async def test_after_a_cut_everybody_looks_and_news_are_heard_again(database: FreshDatabase) -> None:
    async with listening(database) as hub:
        with hub.subscribe(QUEUE) as queue, hub.subscribe("silent") as silent:
            database.rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'bloom-hub'"
                          " and datname = current_database()")  # fmt: skip
            assert await queue.wait(PATIENCE_SEC) and await silent.wait(PATIENCE_SEC)
            await announce(database, QUEUE)
            assert await queue.wait(PATIENCE_SEC) and not await silent.wait(AT_ONCE_SEC)


async def test_a_hub_waits_for_a_database_that_is_not_there_yet(caplog: pytest.LogCaptureFixture) -> None:
    refused = asyncio.Event()
    caplog.handler.addFilter(lambda record: refused.set() or True)
    hub = Hub("postgresql:///nothing?host=/nowhere")
    running = asyncio.create_task(hub.run())
    await asyncio.wait_for(refused.wait(), PATIENCE_SEC)
    assert not hub.listening.is_set() and not running.done()
    assert "nowhere" not in caplog.text
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
