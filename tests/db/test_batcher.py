"""Natural batches: what arrives during a flush is the next one, and each caller gets its own outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import pytest

from bloom.base.errors import BloomError, Conflict, Unavailable
from bloom.db.batcher import TRIES_AFTER_CONFLICT, Batcher

pytestmark = pytest.mark.anyio
PATIENCE_SEC = 5
Outcomes = Sequence[int | BloomError]


class Flushes:
    """Records batches; each waits until it is let through, then answers by `answer`."""

    def __init__(
        self, answer: Callable[[Sequence[int]], Outcomes] = lambda items: [item * 10 for item in items]
    ) -> None:
        self.batches: list[list[int]] = []
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self.answer = answer
        self._begun = asyncio.Condition()

    async def __call__(self, items: Sequence[int]) -> Outcomes:
        self.batches.append(list(items))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        async with self._begun:
            self._begun.notify_all()
        try:
            await asyncio.wait_for(self.gate.wait(), PATIENCE_SEC)
            return self.answer(items)
        finally:
            self.running -= 1

    async def begun(self, count: int) -> None:
        """Return when so many batches have begun."""
        async with asyncio.timeout(PATIENCE_SEC), self._begun:
            await self._begun.wait_for(lambda: len(self.batches) >= count)


def submit(batcher: Batcher[int, int], *items: int) -> "list[asyncio.Task[int]]":
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def outcome(work: Awaitable[int]) -> Any:
    """What the caller gets: its outcome, or the error that is raised to it."""
    try:
        return await asyncio.wait_for(work, PATIENCE_SEC)
    except (BloomError, psycopg.Error, RuntimeError) as error:
        return error


async def outcomes(works: "Sequence[asyncio.Task[int]]") -> list[Any]:
    return [await outcome(work) for work in works]


async def test_a_lone_item_is_flushed_at_once_and_what_comes_meanwhile_is_the_next_batch() -> None:
    flushes = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    first = submit(batcher, 1)
    await flushes.begun(1)
    rest = submit(batcher, 2, 3, 4)
    await asyncio.sleep(0)
    assert flushes.batches == [[1]]
    flushes.gate.set()
    assert await outcomes(first + rest) == [10, 20, 30, 40]
    assert flushes.batches == [[1], [2, 3, 4]] and flushes.most_running == 1
    assert await outcome(batcher.submit(5)) == 50


async def test_a_batch_holds_no_more_than_its_limit() -> None:
    flushes = Flushes()
    flushes.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flushes, max_batch=2)
    assert await outcomes(submit(batcher, *range(5))) == [0, 10, 20, 30, 40]
    assert flushes.batches == [[0, 1], [2, 3], [4]]


async def test_a_refused_item_is_refused_to_its_caller_alone() -> None:
    refusal = Conflict("no")
    flushes = Flushes(lambda items: [refusal if item == 2 else item for item in items])
    flushes.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    assert await outcomes(submit(batcher, 1, 2, 3)) == [1, refusal, 3]


@pytest.mark.parametrize("kind", [psycopg.errors.NumericValueOutOfRange, psycopg.errors.CheckViolation])
async def test_an_item_with_bad_data_fails_alone(kind: type[psycopg.Error]) -> None:
    def answer(items: Sequence[int]) -> Outcomes:
        if 2 in items:
            raise kind("bad")
        return list(items)

    flushes = Flushes(answer)
    flushes.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    one, two, three = await outcomes(submit(batcher, 1, 2, 3))
    assert (one, three) == (1, 3) and isinstance(two, kind)
    assert flushes.batches == [[1, 2, 3], [1], [2], [3]]


@pytest.mark.parametrize(
    "kind",
    [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.UniqueViolation],
)
async def test_a_batch_that_somebody_else_was_in_the_way_of_runs_again(kind: type[psycopg.Error]) -> None:
    def answer(items: Sequence[int]) -> Outcomes:
        if len(flushes.batches) < TRIES_AFTER_CONFLICT:
            raise kind("conflict")
        return list(items)

    flushes = Flushes(answer)
    flushes.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    assert await outcomes(submit(batcher, 1, 2)) == [1, 2]
    assert flushes.batches == [[1, 2]] * TRIES_AFTER_CONFLICT


async def test_an_item_that_meets_a_conflict_again_and_again_fails_alone_in_the_end() -> None:
    def answer(items: Sequence[int]) -> Outcomes:
        if 2 in items:
            raise psycopg.errors.UniqueViolation("conflict")
        return list(items)

    flushes = Flushes(answer)
    flushes.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    one, two = await outcomes(submit(batcher, 1, 2))
    assert one == 1 and isinstance(two, psycopg.errors.UniqueViolation)
    assert len(flushes.batches) == 2 * TRIES_AFTER_CONFLICT + 1


async def test_an_error_of_a_whole_batch_goes_to_all_its_callers_and_the_next_batch_goes_on() -> None:
    def answer(items: Sequence[int]) -> Outcomes:
        if 1 in items:
            raise Unavailable("away")
        return list(items)

    flushes = Flushes(answer)
    batcher: Batcher[int, int] = Batcher("test", flushes, max_batch=2)
    works = submit(batcher, 1, 2, 3)
    flushes.gate.set()
    one, two, three = await outcomes(works)
    assert isinstance(one, Unavailable) and two is one and three == 3


async def test_whoever_leaves_before_its_batch_begins_is_left_out() -> None:
    flushes = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    first = submit(batcher, 1)
    await flushes.begun(1)
    leaving, staying = submit(batcher, 2, 3)
    await asyncio.sleep(0)
    leaving.cancel()
    flushes.gate.set()
    assert await outcomes([*first, staying]) == [10, 30]
    assert flushes.batches == [[1], [3]] and leaving.cancelled()


async def test_whoever_leaves_during_its_flush_disturbs_nobody() -> None:
    flushes = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    leaving, staying = submit(batcher, 1, 2)
    await flushes.begun(1)
    leaving.cancel()
    flushes.gate.set()
    assert await outcome(staying) == 20
    assert flushes.batches == [[1, 2]]
    assert await outcome(batcher.submit(3)) == 30


async def test_beyond_its_capacity_callers_are_asked_to_come_back() -> None:
    flushes = Flushes()
    batcher: Batcher[int, int] = Batcher("test", flushes, max_waiting=2)
    first = submit(batcher, 1)
    await flushes.begun(1)
    waiting = submit(batcher, 2, 3)
    await asyncio.sleep(0)
    refused = await outcome(batcher.submit(4))
    assert isinstance(refused, Unavailable) and (refused.code, refused.retry_after_sec) == ("overloaded", 1)
    flushes.gate.set()
    assert await outcomes(first + waiting) == [10, 20, 30]


async def test_what_one_caller_submits_together_shares_a_batch_and_a_refused_item_stands_in_its_place() -> None:
    flushes = Flushes(lambda items: [Conflict("no") if item % 2 else item * 10 for item in items])
    batcher: Batcher[int, int] = Batcher("test", flushes, max_batch=2)
    first = submit(batcher, 0)
    await flushes.begun(1)
    together = asyncio.create_task(batcher.submit_many([1, 2, 3]))
    last = submit(batcher, 4)
    flushes.gate.set()
    assert await outcomes(first + last) == [0, 40]
    one, two, three = await together
    assert (two, isinstance(one, Conflict), isinstance(three, Conflict)) == (20, True, True)
    assert flushes.batches == [[0], [1, 2, 3], [4]]


async def test_an_item_with_bad_data_fails_alone_among_what_its_caller_submitted() -> None:
    def answer(items: Sequence[int]) -> Outcomes:
        if 2 in items:
            raise psycopg.errors.NumericValueOutOfRange
        return [item * 10 for item in items]

    flushes = Flushes(answer)
    flushes.gate.set()
    batcher: Batcher[int, int] = Batcher("test", flushes)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        await batcher.submit_many([1, 2, 3])
    assert flushes.batches == [[1, 2, 3], [1], [2], [3]]
    assert await batcher.submit_many([1, 3]) == [10, 30]
