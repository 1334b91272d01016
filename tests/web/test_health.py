"""Health answers in time, whatever hangs behind it."""

import asyncio

import pytest

from bloom.web import health

pytestmark = pytest.mark.anyio


async def test_what_does_not_even_end_when_it_is_cancelled_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "HEALTH_SEC", 0.01)
    released, ended = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await released.wait()
            ended.set()

    with pytest.raises(TimeoutError):
        await health.in_time(hangs())
    assert not ended.is_set()
    released.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_an_outcome_and_an_error_are_handed_on() -> None:
    async def answers() -> int:
        return 7

    async def fails() -> int:
        raise ValueError("no")

    assert await health.in_time(answers()) == 7
    with pytest.raises(ValueError, match="no"):
        await health.in_time(fails())
