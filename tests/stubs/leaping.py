"""An event loop whose clock leaps: when nothing is ready, it is at once the time of the next timer.

For code that waits on timers and events alone; threads and sockets would be overtaken by the clock.
"""

import asyncio
import selectors
from collections.abc import Callable


class _LeapingSelector(selectors.DefaultSelector):
    leap: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout:
            self.leap(timeout)
        return ready


class LeapingLoop(asyncio.SelectorEventLoop):
    """Its `time()` begins at 1000 and stands still while code runs."""

    def __init__(self) -> None:
        self._now = 1000.0
        selector = _LeapingSelector()
        selector.leap = self._leap
        super().__init__(selector)

    def time(self) -> float:
        """The time of this loop, in seconds."""
        return self._now

    def _leap(self, seconds: float) -> None:
        self._now += seconds
