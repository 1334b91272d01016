"""The window of a measurement: clients run before, through and after it; what ends inside it counts."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.load.http import Connection

PATIENCE_SEC = 60


@dataclass
class Window:
    """`count(n)` notes work that is done; `stopping` tells the clients to end."""

    counting: bool = False
    stopping: bool = False
    done: int = 0
    took_ms: list[float] = field(default_factory=list[float])

    def count(self, n: int) -> None:
        """`n` tasks are done."""
        if self.counting:
            self.done += n

    def note(self, began: float) -> None:
        """A client's round began at this moment of the monotonic clock and ended now."""
        if self.counting:
            self.took_ms.append((time.monotonic() - began) * 1000)


Client = Callable[[Connection, int, Window], Coroutine[Any, Any, None]]
"""One client, its number, and the window: runs until `stopping`."""


async def run(client: Client, *, port: int, key: str, clients: int, warm_up_sec: float, seconds: float) -> None:
    """Run `clients` of them, each on a connection of its own."""
    window = Window()
    connections = [await Connection.open(port, key) for _ in range(clients)]
    running = [client(connection, n, window) for n, connection in enumerate(connections)]
    await count_within(window, running, warm_up_sec=warm_up_sec, seconds=seconds)


async def count_within(
    window: Window,
    clients: Sequence[Coroutine[Any, Any, None]],
    *,
    warm_up_sec: float,
    seconds: float,
    more: Callable[[], dict[str, float]] = dict,
) -> None:
    """Run them for `warm_up_sec`, then count for `seconds`. Any error of any client ends all.

    Prints `begun` and `ended` at the window's ends, so that who reads them can look at other processes, then one line of
    JSON: done, seconds, took_ms {p50, p99, most}, and `more`, asked at the window's end.
    """
    async with asyncio.timeout(warm_up_sec + seconds + PATIENCE_SEC), asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client)
        await asyncio.sleep(warm_up_sec)
        window.counting, began = True, time.monotonic()
        print("begun", flush=True)
        await asyncio.sleep(seconds)
        window.counting, took = False, time.monotonic() - began
        window.stopping = True
        told = {"done": window.done, "seconds": took, "took_ms": quantiles(window.took_ms), **more()}
        print("ended", flush=True)
    print(json.dumps(told), flush=True)


def quantiles(milliseconds: list[float]) -> dict[str, float]:
    """`p50`, `p99` and the `most`; nothing of nothing."""
    ordered = sorted(milliseconds)
    places = (("p50", 0.5), ("p99", 0.99), ("most", 1))
    return {name: round(ordered[int((len(ordered) - 1) * at)], 2) for name, at in places if ordered}
