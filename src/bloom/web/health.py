"""Health routes answer in time whatever hangs: whoever asks wants to know, not to wait as others do."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

HEALTH_SEC = 2.0

_abandoned: set[asyncio.Task[Any]] = set()
"""Keeps them from the garbage collector until they have ended."""


async def in_time(work: Coroutine[Any, Any, T]) -> T:
    """The outcome of `work`. Raises TimeoutError after two seconds, without waiting for the end of `work`: where the database
    hangs, its cancellation takes longer than that.
    """
    task = asyncio.ensure_future(work)
    _abandoned.add(task)
    task.add_done_callback(_over)
    done, _ = await asyncio.wait((task,), timeout=HEALTH_SEC)
    if not done:
        task.cancel()
        raise TimeoutError
    return task.result()


def _over(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # nobody asks for that of one that was abandoned
