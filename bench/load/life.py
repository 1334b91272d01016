"""The whole life of a task by single HTTP calls, as a client of the compatible routes makes them."""

import json
import time

from bench.load.http import Connection, as_json
from bench.load.window import Window
from bench.payload import OUTPUT, PROMPT

WORKERS = 8
SLOTS = 32


async def prepare(connection: Connection) -> None:
    """Register workers with more slots than there are clients; the router chooses among them."""
    for n in range(WORKERS):
        await connection.register(f"bench-{n}", SLOTS)


async def client(connection: Connection, n: int, window: Window) -> None:
    """Create, lease, heartbeat, complete, one task after another, in one context."""
    creation = as_json({"context_id": f"bench-{n}", "agent_slug": "bench", "prompt": PROMPT})
    report = as_json({"status": "success", "output": OUTPUT, "metrics": {"duration_ms": 1000}})
    while not window.stopping:
        began = time.monotonic()
        task_id = json.loads(await connection.post("/llm-tasks", creation, 201))["id"]
        leased = json.loads(await connection.post(f"/llm-tasks/{task_id}/lease", b"{}", 201))
        named = b'"lease_id":"%s"' % leased["lease"]["id"].encode()
        await connection.post(f"/llm-tasks/{task_id}/heartbeat", b"{%s}" % named, 200)
        await connection.post(f"/llm-tasks/{task_id}/complete", b"{%s,%s" % (named, report[1:]), 200)
        window.count(1)
        window.note(began)
