"""The two clocks of the daemon: one to measure with, one to tell others the time."""

import time
from datetime import UTC, datetime

from bloom.base.clock import to_ms


def boot_clock() -> float:
    """Monotonic seconds that also count while the machine sleeps: a lease does not wait for a laptop's lid.

    On Linux that is CLOCK_BOOTTIME (clock_gettime(2)); on macOS CLOCK_MONOTONIC counts sleep already.
    """
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def now_ms() -> int:
    """This machine's time of day in epoch milliseconds; it may be wrong, and nothing is decided by it."""
    return to_ms(datetime.now(UTC))
