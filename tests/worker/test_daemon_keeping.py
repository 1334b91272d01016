"""Leases are extended in time, and none is trusted for longer than the runtime does: tried on a clock that leaps."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.stubs.leaping import LeapingLoop

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import ExtendAnswer, ExtendOutcome
from bloom.worker.executors.interface import RunTask, StopReason
from bloom.worker.keeping import Keeping, margin_sec
from bloom.worker.options import Pace
from bloom.worker.runs import Run, Runs
from bloom.worker.spool import RunEntry, Spool

pytestmark = pytest.mark.anyio

TTL_SEC = 60


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": LeapingLoop}


def now() -> float:
    return asyncio.get_running_loop().time()


class Extends:
    """Answers extends by `behave`; remembers when each was asked and for which leases."""

    def __init__(self, behave: Callable[[int], Awaitable[str]]) -> None:
        self._behave = behave
        self.asked_at: list[float] = []
        self.leases: list[list[str]] = []

    async def __call__(self, lease_ids: Sequence[str], timeout_sec: float) -> ExtendAnswer:
        self.asked_at.append(now())
        self.leases.append(list(lease_ids))
        try:
            async with asyncio.timeout(timeout_sec):
                outcome = await self._behave(len(self.asked_at))
        except TimeoutError:
            raise RuntimeUnreachable("no answer") from None
        answers = [
            ExtendOutcome.model_validate({"lease_id": i, "outcome": outcome, "expires_at": 0}) for i in lease_ids
        ]
        return ExtendAnswer(leases=answers)


async def held(_: int) -> str:
    return "held"


async def unreachable(_: int) -> str:
    raise RuntimeUnreachable("gone")


async def hanging(_: int) -> str:
    await asyncio.Event().wait()
    return "held"


class Kept:
    """A Keeping at work."""

    def __init__(self, directory: Path, extends: Extends) -> None:
        self.runs = Runs(32)
        self.keeping = Keeping(self.runs, extends, Pace(), now)
        self._spool = Spool(directory)

    def grant(self, lease_id: str = "lease", *, sent_at: float | None = None, ttl_sec: int = TTL_SEC) -> Run:
        """A lease that was granted to a claim sent at `sent_at`, by default now."""
        run = Run(
            self._spool.open_run(RunEntry("task", lease_id, "w1")), RunTask("t", lease_id, "c", "a", "p"), ttl_sec
        )
        self.runs.add(run)
        self.keeping.granted(run, now() if sent_at is None else sent_at)
        return run


@asynccontextmanager
async def keeping(directory: Path, extends: Extends) -> AsyncGenerator[Kept]:
    kept = Kept(directory, extends)
    loops = [asyncio.create_task(kept.keeping.extend_forever()), asyncio.create_task(kept.keeping.watch_forever())]
    try:
        yield kept
        assert not any(loop.done() for loop in loops)
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)
        for run in kept.runs:
            run.spooled.close()


async def test_all_leases_are_extended_every_five_seconds_in_one_request(tmp_path: Path) -> None:
    extends = Extends(held)
    async with keeping(tmp_path, extends) as kept:
        began = now()
        runs = [kept.grant("one"), kept.grant("two")]
        await asyncio.sleep(600)
        assert [run.stop.reason for run in runs] == [None, None]
        assert extends.asked_at[:3] == [began + 5, began + 10, began + 15]
        assert extends.leases == [["one", "two"]] * 120


async def test_a_short_lease_is_extended_every_quarter_of_its_length(tmp_path: Path) -> None:
    extends = Extends(held)
    async with keeping(tmp_path, extends) as kept:
        began = now()
        run = kept.grant(ttl_sec=4)
        await asyncio.sleep(60)
        assert extends.asked_at[:2] == [began + 1, began + 2]
        assert run.stop.reason is None


@pytest.mark.parametrize("behave", [unreachable, hanging])
@pytest.mark.parametrize("ttl_sec", [1, 5, 60, 300])
async def test_a_run_is_stopped_before_its_lease_ends_when_the_runtime_does_not_answer(
    tmp_path: Path, behave: Callable[[int], Awaitable[str]], ttl_sec: int
) -> None:
    extends = Extends(behave)
    async with keeping(tmp_path, extends) as kept:
        sent_at = now()
        run = kept.grant(ttl_sec=ttl_sec)
        await run.stop.event.wait()
        assert run.stop.reason is StopReason.LEASE_LOST
        assert sent_at + ttl_sec - now() == pytest.approx(margin_sec(ttl_sec))
        assert not run.lost
        assert extends.asked_at


async def test_trust_counts_from_the_sending_of_the_last_extend_that_was_answered(tmp_path: Path) -> None:
    async def slow_then_gone(count: int) -> str:
        if count > 3:
            raise RuntimeUnreachable("gone")
        await asyncio.sleep(9)
        return "held"

    extends = Extends(slow_then_gone)
    async with keeping(tmp_path, extends) as kept:
        run = kept.grant()
        await run.stop.event.wait()
        assert now() - extends.asked_at[2] == pytest.approx(TTL_SEC - margin_sec(TTL_SEC))


async def test_a_lease_granted_to_an_old_request_is_confirmed_by_an_extend_before_it_runs(tmp_path: Path) -> None:
    extends = Extends(held)
    async with keeping(tmp_path, extends) as kept:
        run = kept.grant(sent_at=now() - 3600)
        assert not run.confirmed.is_set()
        began = now()
        await run.confirmed.wait()
        assert now() == began
        await asyncio.sleep(600)
        assert run.stop.reason is None


async def test_an_old_request_whose_lease_is_gone_is_lost_without_having_run(tmp_path: Path) -> None:
    async def lost(_: int) -> str:
        return "lost"

    async with keeping(tmp_path, Extends(lost)) as kept:
        run = kept.grant(sent_at=now() - 3600)
        await run.stop.event.wait()
        assert run.lost
        assert not run.confirmed.is_set()


async def test_a_long_pause_that_the_runtime_asks_for_does_not_cost_the_lease(tmp_path: Path) -> None:
    async def busy_at_first(count: int) -> str:
        if count < 4:
            raise RuntimeRefused("too many", status=429, code="rate_limited", retry_after_sec=300)
        return "held"

    async with keeping(tmp_path, Extends(busy_at_first)) as kept:
        run = kept.grant()
        await asyncio.sleep(600)
        assert run.stop.reason is None


async def test_a_lease_whose_report_is_not_delivered_yet_is_extended_too(tmp_path: Path) -> None:
    extends = Extends(held)
    async with keeping(tmp_path, extends) as kept:
        run = kept.grant()
        run.reported.set()
        await asyncio.sleep(60)
        assert len(extends.asked_at) == 11
        kept.runs.end(run)
        await asyncio.sleep(60)
        assert len(extends.asked_at) == 11


async def test_a_run_that_is_being_stopped_in_peace_is_ended_when_its_lease_can_no_longer_be_trusted(
    tmp_path: Path,
) -> None:
    async with keeping(tmp_path, Extends(unreachable)) as kept:
        run = kept.grant()
        run.stop.set(StopReason.CANCELLED)
        await run.stop.lost.wait()
        assert run.stop.reason is StopReason.CANCELLED
