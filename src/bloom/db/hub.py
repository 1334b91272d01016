"""News between processes: LISTEN/NOTIFY up, a hint only.

A notification says where to look, never what is there; a lost one costs time, never a task. Topics are `queue` (there may be
something to claim), `due` (a task waits for its time that may be sooner than that of others), `task:<id>` (that task has news),
`keys` (a key was revoked) and `connection` (that to Membridge is another one).
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import psycopg

from bloom.db.pool import CONNECT_TIMEOUT_SEC, NOTICE_DEAD, Connection

CHANNEL = "bloom"
QUEUE = "queue"
DUE = "due"
KEYS = "keys"
CONNECTION = "connection"
MAX_PAYLOAD_BYTES = 200
RECONNECT_SEC = 1.0
EVERYTHING = "*"
"""Whoever subscribes to this is woken by all news."""

_log = logging.getLogger(__name__)


ANY_TASK = "task:*"
"""News of more tasks than a notification can name: whoever follows one looks."""

_TASK = "task:"


def task_topic(task_id: str) -> str:
    """The topic of one task's news."""
    return f"{_TASK}{task_id}"


async def notify(connection: Connection, topics: Iterable[str]) -> None:
    """Announce `topics` when the transaction of `connection` commits: one NOTIFY, whatever their number."""
    named = dict.fromkeys(topics)
    payload = " ".join(named)
    if not payload:
        return
    if len(payload.encode()) > MAX_PAYLOAD_BYTES:
        payload = " ".join(dict.fromkeys(ANY_TASK if topic.startswith(_TASK) else topic for topic in named))
    await connection.execute("select pg_notify(%s, %s)", (CHANNEL, payload))


class Subscription:
    """Wakes its holder when one of its topics has news. Use as a context manager."""

    def __init__(self, hub: "Hub", topics: tuple[str, ...]) -> None:
        self._hub = hub
        self._topics = topics
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Let the holder look."""
        self._news.set()

    async def wait(self, timeout_sec: float) -> bool:
        """True as soon as there is news since the last call, False after `timeout_sec` seconds without."""
        try:
            async with asyncio.timeout(max(timeout_sec, 0)):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    def __enter__(self) -> Self:
        for topic in self._topics:
            self._hub.subscriptions[topic].add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for topic in self._topics:
            holders = self._hub.subscriptions[topic]
            holders.discard(self)
            if not holders:
                del self._hub.subscriptions[topic]


class Hub:
    """One LISTEN connection of a process, and everybody in it who waits for news."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)
        self.listening = asyncio.Event()

    def subscribe(self, *topics: str) -> Subscription:
        """A subscription to `topics`. What is announced after entering it is not missed."""
        return Subscription(self, topics)

    def wake(self, *topics: str) -> None:
        """Wake the holders of `topics` in this process; without topics, everybody."""
        woken = [*topics, EVERYTHING] if topics else list(self.subscriptions)
        if ANY_TASK in topics:
            woken += [topic for topic in self.subscriptions if topic.startswith(_TASK)]
        for topic in woken:
            for subscription in tuple(self.subscriptions.get(topic, ())):
                subscription.wake()

    async def run(self) -> None:
        """Listen until cancelled. After each (re)connect everybody looks, since news may have been missed."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                _log.warning("not listening for news; trying again", extra={"reason": type(error).__name__})
            finally:
                self.listening.clear()
            await asyncio.sleep(RECONNECT_SEC)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_SEC,
            application_name="bloom-hub",
            **NOTICE_DEAD,
        )
        async with connection:
            await connection.execute(f"listen {CHANNEL}")
            self.listening.set()
            self.wake()
            async for notification in connection.notifies():
                self.wake(*(() if notification.payload == EVERYTHING else notification.payload.split()))
