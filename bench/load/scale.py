"""A large fleet on two replicas: each worker keeps one long poll open and completes what it is given, while tasks flow.

A task's prompt is the moment at which it was posted, so that whoever gets it knows how long that took.
"""

import asyncio
import json
import time
import uuid
from typing import Any

from bench.load.http import Connection, as_json
from bench.load.window import Window, count_within
from bloom.worker.options import Pace

POST_EVERY_SEC = 0.1
_OPENED_AT_ONCE = 50
_REPORT = {"status": "success", "output": "", "metrics": {"duration_ms": 0}}


async def run_scale(
    *, ports: list[int], key: str, workers: int, tasks_per_sec: float, warm_up_sec: float, seconds: float
) -> None:
    """Connect the workers, then let tasks flow. Prints what `count_within` prints, and how the tasks were dealt out."""
    connections = await _connect(ports, key, workers)
    window = Window()
    taken = [0] * workers
    posters = [await Connection.open(port, key) for port in ports]
    clients = [_work(connection, n, window, taken) for n, connection in enumerate(connections)]
    clients += [_post(poster, tasks_per_sec / len(ports), window) for poster in posters]

    def dealt() -> dict[str, float]:
        return {"most": max(taken), "busy": sum(n > 0 for n in taken)}

    await count_within(window, clients, warm_up_sec=warm_up_sec, seconds=seconds, more=dealt)


async def _connect(ports: list[int], key: str, workers: int) -> list[Connection]:
    gate = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def one(n: int) -> Connection:
        async with gate:
            connection = await Connection.open(ports[n % len(ports)], key)
            await connection.register(f"scale-{n}", 1)
            return connection

    return await asyncio.gather(*(one(n) for n in range(workers)))


async def _work(connection: Connection, n: int, window: Window, taken: list[int]) -> None:
    name, wait_sec = f"scale-{n}", Pace().wait_sec
    # Spread over the length of a poll, so that the polls end spread too.
    first = wait_sec * (0.1 + 0.9 * ((n * 0.618034) % 1))
    while not window.stopping:
        claim = {"request_id": uuid.uuid4().hex, "slots": 1, "wait_sec": first}
        first = wait_sec
        held: list[dict[str, Any]] = json.loads(await connection.post(f"/workers/{name}/claim", as_json(claim), 200))[
            "leases"
        ]
        for each in held:
            if window.counting:
                window.took_ms.append((time.monotonic() - float(each["task"]["prompt"])) * 1000)
                taken[n] += 1
        window.count(len(held))
        reports = [{**_REPORT, "task_id": each["task"]["id"], "lease_id": each["lease"]["id"]} for each in held]
        if reports:
            await connection.post(f"/workers/{name}/complete", as_json({"completions": reports}), 200)


async def _post(connection: Connection, per_sec: float, window: Window) -> None:
    began, posted = time.monotonic(), 0
    while not window.stopping:
        due = int((time.monotonic() - began) * per_sec) - posted
        if due > 0:
            now = repr(time.monotonic())
            tasks = [{"context_id": uuid.uuid4().hex, "agent_slug": "a", "prompt": now} for _ in range(due)]
            await connection.post("/llm-tasks/batch", as_json({"tasks": tasks}), 200)
            posted += due
        await asyncio.sleep(POST_EVERY_SEC)
