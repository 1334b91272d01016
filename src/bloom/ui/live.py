"""Live regions: what many pages look at is rendered once in a process, when something changed, at most about once a second.

Followers get the newest state alone: one that reads slowly misses states in between and holds up nobody.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import suppress

from bloom.base.errors import BloomError
from bloom.db.hub import EVERYTHING, Hub, Subscription
from bloom.web.disconnect import end_tasks
from bloom.web.sse import SseEvent

AT_MOST_EVERY_SEC = 0.8
"""A change is seen within a second."""

LOOK_EVERY_SEC = 1.0
"""Not every change is announced; a look at the last audit entry finds the others."""

AT_LEAST_EVERY_SEC = 10.0
"""Ages grow, and workers fall silent, without a word."""

Render = Callable[[], Awaitable[str]]

_log = logging.getLogger(__name__)


class _Region:
    """One region that somebody follows. `html` is None while it cannot be rendered."""

    def __init__(self, render: Render, every_sec: float, topic: str, news: Subscription) -> None:
        self.render = render
        self.every_sec = every_sec
        self.topic = topic
        self.news = news
        self.html: str | None = None
        self.version = 0
        self.followers = 0
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Render until cancelled."""
        with self.news:
            while True:
                html = await self._rendered()
                if html != self.html or not self.version:
                    async with self.changed:
                        self.html, self.version = html, self.version + 1
                        self.changed.notify_all()
                await asyncio.sleep(AT_MOST_EVERY_SEC)
                await self.news.wait(self.every_sec)

    async def _rendered(self) -> str | None:
        try:
            return await self.render()
        except BloomError as error:
            _log.debug("a region cannot be rendered", extra={"code": error.code})
        except Exception:  # noqa: BLE001 - followers wait for this task
            _log.exception("a region cannot be rendered")
        return None


class LiveRegions:
    """The regions that pages of this process follow. `last_change` tells a value that is another one after each change."""

    def __init__(self, hub: Hub, last_change: Callable[[], Awaitable[object]]) -> None:
        self._hub = hub
        self._last_change = last_change
        self._regions: dict[Hashable, _Region] = {}
        self._watch: asyncio.Task[None] | None = None

    async def follow(
        self, key: Hashable, render: Render, *, every_sec: float = AT_LEAST_EVERY_SEC, topic: str = EVERYTHING
    ) -> AsyncGenerator[str | None, None]:
        """The region as it is, and again whenever it is another; None when it cannot be told. `key` stands for all that the
        outcome of `render` depends on. It is looked at every `every_sec` without news, too. `topic`: the news that it
        depends on (`bloom.db.hub`), by default all.
        """
        region = self._regions.get(key)
        if region is None:
            region = self._regions[key] = _Region(render, every_sec, topic, self._hub.subscribe(topic))
            region.task = asyncio.create_task(region.keep(), name="live region")
        region.followers += 1
        if self._watch is None:
            self._watch = asyncio.create_task(self._look(), name="live regions")
        seen = 0
        try:
            while True:
                async with region.changed:
                    while region.version == seen:
                        await region.changed.wait()
                    seen, html = region.version, region.html
                yield html
        finally:
            region.followers -= 1
            if not region.followers:
                del self._regions[key]
                if region.task is not None:
                    region.task.cancel()
                if not self._regions:
                    self._watch.cancel()
                    self._watch = None

    async def _look(self) -> None:
        last: object = None
        with self._hub.subscribe(EVERYTHING) as news:
            while True:
                if await news.wait(LOOK_EVERY_SEC):
                    continue  # the regions have heard it themselves
                with suppress(BloomError):
                    now = await self._last_change()
                    if now != last:
                        last = now
                        for region in self._regions.values():
                            if region.topic == EVERYTHING:
                                region.news.wake()


async def merged(*sources: AsyncGenerator[SseEvent, None]) -> AsyncGenerator[SseEvent, None]:
    """The events of all sources as they come. An error of one ends all."""
    upcoming: dict[asyncio.Future[SseEvent], AsyncGenerator[SseEvent, None]] = {}

    def ask(source: AsyncGenerator[SseEvent, None]) -> None:
        upcoming[asyncio.ensure_future(anext(source))] = source

    for source in sources:
        ask(source)
    try:
        while upcoming:
            done, _ = await asyncio.wait(upcoming, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                source = upcoming.pop(future)
                with suppress(StopAsyncIteration):
                    yield future.result()
                    ask(source)
    finally:
        await end_tasks(*upcoming)
        for source in sources:
            await source.aclose()
