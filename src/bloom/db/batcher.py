"""Natural batches: concurrent requests of one kind share one transaction.

One flush is in flight per kind; what arrives meanwhile is the next batch. There is no timer, so a lone request waits for
nothing, and callers are answered only after COMMIT.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import psycopg

from bloom.base.errors import BloomError, Unavailable
from bloom.db.pool import RETRYABLE

In = TypeVar("In")
Out = TypeVar("Out")

TRIES_AFTER_CONFLICT = 5

_log = logging.getLogger(__name__)


class Batcher(Generic[In, Out]):
    """Runs `flush` over what concurrent callers submit; `flush` returns one outcome per item, in order.

    An outcome that is a BloomError is raised to its submitter alone. When a flush fails on its data, its items run one by
    one, so that a bad one fails alone. Beyond `max_waiting` items callers get Unavailable (`overloaded`).
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[Sequence[In]], Awaitable[Sequence[Out | BloomError]]],
        *,
        max_batch: int = 256,
        max_waiting: int = 4096,
    ) -> None:
        self.name = name
        self._flush = flush
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._flushing: asyncio.Task[None] | None = None

    async def submit(self, item: In) -> Out:
        """The outcome of `item`, after the commit of the batch that carried it.

        If the caller is cancelled before its batch starts, the item is dropped; afterwards it takes effect unseen.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable(
                "Too many requests are waiting; try again in a second.", code="overloaded", retry_after_sec=1
            )
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._drain(), name=f"batcher-{self.name}")
        return await future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch: list[tuple[In, asyncio.Future[Out]]] = []
                while self._waiting and len(batch) < self._max_batch:
                    entry = self._waiting.popleft()
                    if not entry[1].done():
                        batch.append(entry)
                if batch:
                    await self._run(batch)
        finally:
            self._flushing = None

    async def _run(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> None:
        try:
            outcomes = await self._flush_again_on_conflict([item for item, _ in batch])
        except (psycopg.DataError, psycopg.IntegrityError, *RETRYABLE) as error:
            if len(batch) == 1:
                _answer(batch[0][1], error)
                return
            _log.info("batch runs item by item", extra={"batcher": self.name, "reason": type(error).__name__})
            for entry in batch:
                await self._run([entry])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the submitters' to see
            for _, future in batch:
                _answer(future, error)
        else:
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                _answer(future, outcome)

    async def _flush_again_on_conflict(self, items: list[In]) -> Sequence[Out | BloomError]:
        for _ in range(TRIES_AFTER_CONFLICT - 1):
            try:
                return await self._flush(items)
            except RETRYABLE:
                continue
        return await self._flush(items)


def _answer(future: "asyncio.Future[Out]", outcome: Out | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
