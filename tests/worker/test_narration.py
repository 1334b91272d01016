"""Small pieces of text are joined, large ones cut; nothing is lost or overtaken."""

import pytest

from bloom.worker.executors import narration
from bloom.worker.executors.interface import RunEvent
from bloom.worker.executors.narration import Narration

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(narration.time, "monotonic", lambda: self.now)


class Spool:
    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    async def emit(self, event: RunEvent) -> None:
        self.events.append((event.type, event.data.get("text", event.data)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def spool() -> Spool:
    return Spool()


async def test_text_waits_until_enough_has_gathered(clock: Clock, spool: Spool) -> None:
    told = Narration(spool.emit)
    for _ in range(narration.TEXT_CHARS - 1):
        await told.text("x")
    assert spool.events == []
    await told.text("y")
    assert spool.events == [("text", "x" * (narration.TEXT_CHARS - 1) + "y")]


async def test_text_waits_no_longer_than_a_moment(clock: Clock, spool: Spool) -> None:
    told = Narration(spool.emit)
    assert told.due_in() is None
    await told.text("first ")
    assert told.due_in() == pytest.approx(narration.TEXT_DELAY_SEC)  # pyright: ignore[reportUnknownMemberType]
    clock.now += narration.TEXT_DELAY_SEC
    assert told.due_in() == 0
    await told.text("second")
    assert spool.events == [("text", "first second")]
    assert told.due_in() is None


async def test_what_happens_comes_behind_the_text_before_it(clock: Clock, spool: Spool) -> None:
    told = Narration(spool.emit)
    await told.text("hm", "thinking")
    await told.text("a")
    await told.text("")
    await told.text("b")
    await told.event(RunEvent("tool_use", {"id": "1"}))
    await told.text("c")
    await told.flush()
    await told.flush()
    assert spool.events == [("thinking", "hm"), ("text", "ab"), ("tool_use", {"id": "1"}), ("text", "c")]


async def test_large_text_is_cut(clock: Clock, spool: Spool) -> None:
    told = Narration(spool.emit)
    await told.text("x" * (2 * narration.LARGEST_TEXT_CHARS + 1))
    assert [len(str(text)) for _, text in spool.events] == [narration.LARGEST_TEXT_CHARS] * 2 + [1]
