"""People who look at live pages while tasks run: client 0 runs the tasks, the others each follow a page."""

import asyncio
import json
import uuid

from bench.load.http import Connection, as_json
from bench.load.window import Window

TASKS_PER_SEC = 50
FOLLOWED = ("/live/", "/live/tasks", "/live/workers", "/live/leases")
_BATCH = 10


async def client(connection: Connection, n: int, window: Window) -> None:
    """The one that runs tasks, or one that follows."""
    await (_run_tasks(connection, window) if n == 0 else _follow(connection, FOLLOWED[n % len(FOLLOWED)], window))


async def _run_tasks(connection: Connection, window: Window) -> None:
    await connection.register("busy", 32)
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not window.stopping:
        tasks = [{"context_id": f"c{n}", "agent_slug": "a", "prompt": "Say hello."} for n in range(_BATCH)]
        await connection.post("/llm-tasks/batch", as_json({"tasks": tasks}), 200, 201, 207)
        claim = {"request_id": uuid.uuid4().hex, "slots": _BATCH, "wait_sec": 1}
        leases = json.loads(await connection.post("/workers/busy/claim", as_json(claim), 200))["leases"]
        reports = [
            {"task_id": each["task"]["id"], "lease_id": each["lease"]["id"], "status": "success", "output": "Hello.",
             "metrics": {"duration_ms": 1, "tokens_used": 10, "cost_usd": 0.001}}
            for each in leases
        ]  # fmt: skip
        if reports:
            await connection.post("/workers/busy/complete", as_json({"completions": reports}), 200)
        due += _BATCH / TASKS_PER_SEC
        await asyncio.sleep(max(due - loop.time(), 0))


async def _follow(connection: Connection, path: str, window: Window) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", connection.port, limit=1 << 22)
    writer.write(f"GET {path} HTTP/1.1\r\n".encode() + connection.head + b"\r\n")
    mark, tail = b"event: region\n", b""
    while not window.stopping:
        try:
            async with asyncio.timeout(1):
                chunk = await reader.read(1 << 18)
        except TimeoutError:
            continue
        if not chunk:
            raise ConnectionError("a live stream ended")
        window.count((tail + chunk).count(mark))
        tail = chunk[-len(mark) + 1 :]
    writer.close()
