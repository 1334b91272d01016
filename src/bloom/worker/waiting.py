"""Waiting for what may be overtaken by something else."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when `event` is set first: then `work` is cancelled. Raises what `work` raises."""
    if event.is_set():
        work.close()
        return None
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        waiting.cancel()
        doing.cancel()
        await asyncio.wait({doing, waiting})
        if not doing.cancelled():
            doing.exception()  # looked at, so that asyncio does not report it as forgotten


async def pause(seconds: float, event: asyncio.Event) -> bool:
    """Wait `seconds`, or until `event` is set; True when it was."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
