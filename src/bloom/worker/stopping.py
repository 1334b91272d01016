"""How a daemon learns that it is to stop: signals, or the end of the parent that holds its lifeline."""

import asyncio
import logging
import signal
from collections.abc import Generator
from contextlib import contextmanager

from bloom.base.lifeline import lifeline

log = logging.getLogger("bloom.worker")


class Stopping:
    """`asked`: take nothing new. `at_once`: what still runs is handed back now; never set without `asked`."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()

    def ask(self) -> None:
        """The first call sets `asked`, the second `at_once`."""
        if self.asked.is_set():
            self.at_once.set()
        self.asked.set()

    def ask_at_once(self) -> None:
        """Set both."""
        self.asked.set()
        self.at_once.set()


@contextmanager
def stopping_on_signals() -> Generator[Stopping]:
    """SIGTERM and SIGINT ask to stop, at once when they come again; SIGHUP (a closed terminal) at once."""
    stopping = Stopping()
    loop = asyncio.get_running_loop()
    asks = {signal.SIGTERM: stopping.ask, signal.SIGINT: stopping.ask}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1)
        asks[signal.SIGHUP] = stopping.ask_at_once
    for number, ask in asks.items():
        loop.add_signal_handler(number, ask)
    try:
        yield stopping
    finally:
        for number in asks:
            loop.remove_signal_handler(number)


async def stop_with_parent(fd: int, stopping: Stopping) -> None:
    """Ask to stop at once when the parent, which holds the other end of the pipe `fd`, is gone."""
    await lifeline(fd)
    log.warning("the parent process is gone; the worker stops")
    stopping.ask_at_once()
