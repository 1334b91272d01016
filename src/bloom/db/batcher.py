"""Natural batches: concurrent requests of one kind share one transaction.

One flush is in flight per kind; what arrives meanwhile is the next batch. There is no timer, so a lone request waits for
nothing, and callers are answered only after COMMIT.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import psycopg

from bloom.base.errors import BloomError, Unavailable
from bloom.db.pool import RETRYABLE
from bloom.telemetry.metrics import BATCH_SIZE

In = TypeVar("In")
Out = TypeVar("Out")

TRIES_AFTER_CONFLICT = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[In, Out]):
    """What one caller submitted, and where it waits for the outcomes."""

    items: Sequence[In]
    outcomes: "asyncio.Future[Sequence[Out | Exception]]"


class Batcher(Generic[In, Out]):
    """Runs `flush` over what concurrent callers submit; `flush` returns one outcome per item, in order.

    An outcome that is a BloomError is raised to its submitter alone. When a flush fails on its data, its items run one by
    one, so that a bad one fails alone. While `max_waiting` callers wait, others get Unavailable (`overloaded`). A flush carries
    `max_batch` items, or a few more: what one caller submits is not torn apart.
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
        self._sizes = BATCH_SIZE.labels(name)
        self._waiting: deque[_Entry[In, Out]] = deque()
        self._flushing: asyncio.Task[None] | None = None

    async def submit(self, item: In) -> Out:
        """The outcome of `item`, after the commit of the batch that carried it.

        If the caller is cancelled before its batch starts, the item is dropped; afterwards it takes effect unseen.
        """
        (outcome,) = await self.submit_many([item])
        if isinstance(outcome, BloomError):
            raise outcome
        return outcome

    async def submit_many(self, items: Sequence[In]) -> Sequence[Out | BloomError]:
        """The outcomes of `items`, which share one batch; an outcome that is a BloomError stands in its place.

        Raises Unavailable (`overloaded`), and then none of them has taken effect; and what nobody foresaw.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable(
                "Too many requests are waiting; try again in a second.", code="overloaded", retry_after_sec=1
            )
        entry: _Entry[In, Out] = _Entry(items, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._drain(), name=f"batcher-{self.name}")
        outcomes: list[Out | BloomError] = []
        for outcome in await entry.outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, BloomError):
                raise outcome
            outcomes.append(outcome)
        return outcomes

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch: list[_Entry[In, Out]] = []
                size = 0
                while self._waiting and size < self._max_batch:
                    entry = self._waiting.popleft()
                    if not entry.outcomes.done():
                        batch.append(entry)
                        size += len(entry.items)
                if batch:
                    self._sizes.observe(size)
                    outcomes = iter(await self._run([item for entry in batch for item in entry.items]))
                    for entry in batch:
                        own = [next(outcomes) for _ in entry.items]
                        if not entry.outcomes.done():
                            entry.outcomes.set_result(own)
        finally:
            self._flushing = None

    async def _run(self, items: Sequence[In]) -> Sequence[Out | Exception]:
        try:
            outcomes = await self._flush_again_on_conflict(items)
            assert len(outcomes) == len(items)  # noqa: S101
        except (psycopg.DataError, psycopg.IntegrityError, *RETRYABLE) as error:
            if len(items) == 1:
                return [error]
            _log.info("batch runs item by item", extra={"batcher": self.name, "reason": type(error).__name__})
            return [outcome for item in items for outcome in await self._run([item])]
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the submitters' to see
            return [error] * len(items)
        return outcomes

    async def _flush_again_on_conflict(self, items: Sequence[In]) -> Sequence[Out | BloomError]:
        for _ in range(TRIES_AFTER_CONFLICT - 1):
            try:
                return await self._flush(items)
            except RETRYABLE:
                continue
        return await self._flush(items)
