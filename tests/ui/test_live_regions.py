"""Live regions: rendered once for all who look, always the newest, and never a burden of who reads slowly."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from bloom.base.errors import Unavailable
from bloom.db.hub import Hub
from bloom.ui import live
from bloom.ui.live import LiveRegions

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses: what matters is the order."""
    monkeypatch.setattr(live, "AT_MOST_EVERY_SEC", 0)


class World:
    """Something that changes, and regions that show it."""

    def __init__(self) -> None:
        self.hub = Hub("")
        self.state = "one"
        self.rendered = 0
        self.failing = False
        self.changes = 0
        self.regions = LiveRegions(self.hub, self.last_change)

    async def last_change(self) -> object:
        return self.changes

    async def render(self) -> str:
        self.rendered += 1
        if self.failing:
            raise Unavailable("away", code="database_unavailable")
        return self.state

    def follow(self, key: str = "key") -> AsyncGenerator[str | None, None]:
        return self.regions.follow(key, self.render)

    def become(self, state: str) -> None:
        self.state = state
        self.hub.wake("queue")


async def soon(follower: AsyncGenerator[str | None, None]) -> str | None:
    """The next state that a follower gets."""
    return await asyncio.wait_for(anext(follower), 5)


async def test_a_thousand_followers_cost_one_rendering() -> None:
    world = World()
    followers = [world.follow() for _ in range(1000)]
    assert {await soon(each) for each in followers} == {"one"}
    assert world.rendered == 1
    world.become("two")
    assert {await soon(each) for each in followers} == {"two"}
    assert world.rendered == 2
    for each in followers:
        await each.aclose()


async def test_who_reads_slowly_gets_the_newest_state_and_holds_up_nobody() -> None:
    world = World()
    slow, quick = world.follow(), world.follow()
    assert [await soon(slow), await soon(quick)] == ["one", "one"]
    for state in ("two", "three", "four"):
        world.become(state)
        assert await soon(quick) == state
    assert await soon(slow) == "four"
    for each in (slow, quick):
        await each.aclose()


async def test_what_nobody_follows_is_rendered_no_more() -> None:
    world = World()
    follower = world.follow()
    await soon(follower)
    await follower.aclose()
    rendered = world.rendered
    world.become("two")
    await asyncio.wait_for(
        asyncio.gather(*(task for task in asyncio.all_tasks() if "live" in task.get_name()), return_exceptions=True), 5
    )
    assert world.rendered == rendered
    assert world.hub.subscriptions == {}


async def test_a_change_without_a_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_SEC", 0)
    world = World()
    follower = world.follow()
    await soon(follower)
    world.state, world.changes = "two", 1
    assert await soon(follower) == "two"
    await follower.aclose()


async def test_a_region_that_cannot_be_told_is_known_to_be_old_until_it_can() -> None:
    world = World()
    follower = world.follow()
    await soon(follower)
    world.failing = True
    world.become("two")
    assert await soon(follower) is None
    world.failing = False
    world.become("two")
    assert await soon(follower) == "two"
    await follower.aclose()
