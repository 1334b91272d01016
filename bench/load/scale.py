"""A large fleet on two replicas: each worker keeps one long poll open and completes what it is given, while tasks flow.

A task's prompt is the moment at which it was posted, so that whoever gets it knows how long that took.
"""

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from bench.load.http import Connection, as_json
from bench.load.window import Window, count_within
from bloom.worker.options import Pace

POST_EVERY_SEC = 0.1
"""A submitter posts one task so often, so there are `tasks_per_sec` times this of them."""

_OPENED_AT_ONCE = 50
_CLAIMS_BEGIN_WITHIN_SEC = 10
_REPORT = {"status": "success", "output": "", "metrics": {"duration_ms": 0}}


async def run_scale(
    *,
    ports: list[int],
    key: str,
    workers: int,
    tasks_per_sec: float,
    warm_up_sec: float,
    seconds: float,
    wait_sec: float = Pace().wait_sec,
) -> None:
    """Connect the workers, whose polls last `wait_sec`, then let tasks flow. Prints what `count_within` prints, and how the
    tasks were dealt out; ends when all polls have.
    """
    connections = await _connect(ports, key, workers)
    window = Window()
    dealt = _Dealt([0] * workers)
    posters = [await Connection.open(ports[n % len(ports)], key) for n in range(round(tasks_per_sec * POST_EVERY_SEC))]
    clients = [_work(connection, n, wait_sec, window, dealt) for n, connection in enumerate(connections)]
    clients += [_post(poster, n / len(posters), window) for n, poster in enumerate(posters)]

    def told() -> dict[str, float]:
        busy = sum(n > 0 for n in dealt.taken)
        return {"most": max(dealt.taken), "busy": busy, "put_off": dealt.put_off, "late_ms": dealt.late_ms}

    await count_within(window, clients, warm_up_sec=warm_up_sec, seconds=seconds, more=told)


@dataclass
class _Dealt:
    """How many tasks each worker was given within the window; how many claims ever were told to come back later; and how much
    later than it asked for a claim was answered within the window that got nothing.
    """

    taken: list[int]
    put_off: int = 0
    late_ms: float = 0.0


async def _connect(ports: list[int], key: str, workers: int) -> list[Connection]:
    gate = asyncio.Semaphore(_OPENED_AT_ONCE)

    async def one(n: int) -> Connection:
        async with gate:
            connection = await Connection.open(ports[n % len(ports)], key)
            await connection.register(f"scale-{n}", 1)
            return connection

    return await asyncio.gather(*(one(n) for n in range(workers)))


async def _work(connection: Connection, n: int, wait_sec: float, window: Window, dealt: _Dealt) -> None:
    name = f"scale-{n}"
    # Spread over the length of a poll, so that the polls end spread too.
    spread = (n * 0.618034) % 1
    await asyncio.sleep(min(_CLAIMS_BEGIN_WITHIN_SEC, wait_sec) * spread)
    first = wait_sec * (0.1 + 0.9 * spread)
    while not window.stopping:
        claim = {"request_id": uuid.uuid4().hex, "slots": 1, "wait_sec": first}
        due = time.monotonic() + first
        first = wait_sec
        answer = json.loads(await connection.post(f"/workers/{name}/claim", as_json(claim), 200, 503))
        if "leases" not in answer:
            dealt.put_off += 1
            await asyncio.sleep(1 + spread)  # as its Retry-After says, with the daemon's jitter
            continue
        held: list[dict[str, Any]] = answer["leases"]
        if window.counting and not held:
            dealt.late_ms = max(dealt.late_ms, (time.monotonic() - due) * 1000)
        for each in held:
            if window.counting:
                window.took_ms.append((time.monotonic() - float(each["task"]["prompt"])) * 1000)
                dealt.taken[n] += 1
        window.count(len(held))
        reports = [{**_REPORT, "task_id": each["task"]["id"], "lease_id": each["lease"]["id"]} for each in held]
        if reports:
            await connection.post(f"/workers/{name}/complete", as_json({"completions": reports}), 200)


async def _post(connection: Connection, offset: float, window: Window) -> None:
    due = time.monotonic() + offset * POST_EVERY_SEC
    while not window.stopping:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        due += POST_EVERY_SEC
        task = {"context_id": uuid.uuid4().hex, "agent_slug": "a", "prompt": repr(time.monotonic())}
        await connection.post("/llm-tasks", as_json(task), 201)
