"""Live regions: what many pages look at is rendered once in a process, when something changed, at most about once a second.

Followers get the newest state alone: one that reads slowly misses states in between and holds up nobody.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import suppress

from bloom.base.errors import BloomError
from bloom.db.hub import EVERYTHING, Hub

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

    def __init__(self, render: Render, every_sec: float) -> None:
        self.render = render
        self.every_sec = every_sec
        self.html: str | None = None
        self.version = 0
        self.followers = 0
        self.changed = asyncio.Condition()
        self.stale = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    async def keep(self) -> None:
        """Render until cancelled."""
        while True:
            self.stale.clear()
            try:
                html = await self.render()
            except BloomError as error:
                _log.debug("a region cannot be rendered", extra={"code": error.code})
                html = None
            except Exception:  # noqa: BLE001 - followers wait for this task
                _log.exception("a region cannot be rendered")
                html = None
            if html != self.html or not self.version:
                async with self.changed:
                    self.html, self.version = html, self.version + 1
                    self.changed.notify_all()
            await asyncio.sleep(AT_MOST_EVERY_SEC)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.every_sec):
                    await self.stale.wait()


class LiveRegions:
    """The regions that pages of this process follow. `last_change` tells a value that is another one after each change."""

    def __init__(self, hub: Hub, last_change: Callable[[], Awaitable[object]]) -> None:
        self._hub = hub
        self._last_change = last_change
        self._regions: dict[Hashable, _Region] = {}
        self._watch: asyncio.Task[None] | None = None

    async def follow(
        self, key: Hashable, render: Render, *, every_sec: float = AT_LEAST_EVERY_SEC
    ) -> AsyncGenerator[str | None, None]:
        """The region as it is, and again whenever it is another; None when it cannot be told. `key` stands for all that the
        outcome of `render` depends on. It is looked at every `every_sec` without news, too.
        """
        region = self._regions.get(key)
        if region is None:
            region = self._regions[key] = _Region(render, every_sec)
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
                if not await news.wait(LOOK_EVERY_SEC):
                    with suppress(BloomError):
                        now = await self._last_change()
                        if now == last:
                            continue
                        last = now
                for region in self._regions.values():
                    region.stale.set()
