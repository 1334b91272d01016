"""The whole life of tasks by the worker protocol: batches, claims of many slots, extend, batch completion."""

import json
import time
import uuid
from typing import Any

from bench.load.http import Connection, as_json
from bench.load.window import Window
from bench.payload import OUTPUT, PROMPT

BATCH = 100
SLOTS = 32
_REPORT = {"status": "success", "output": OUTPUT, "metrics": {"duration_ms": 1000}}


async def client(connection: Connection, n: int, window: Window) -> None:
    """One worker that also submits: it creates a batch, then claims, extends and completes until as many are done.

    What it claims may be another's; all together never claim more than they created.
    """
    name = f"bench-{n}"
    await connection.register(name, SLOTS)
    while not window.stopping:
        began = time.monotonic()
        batch = [{"context_id": uuid.uuid4().hex, "agent_slug": "bench", "prompt": PROMPT} for _ in range(BATCH)]
        created = json.loads(await connection.post("/llm-tasks/batch", as_json({"tasks": batch}), 200))
        assert all(one["status"] == 201 for one in created["results"])
        left = BATCH
        while left > 0:
            claim = {"request_id": uuid.uuid4().hex, "slots": min(SLOTS, left), "wait_sec": 5}
            held = json.loads(await connection.post(f"/workers/{name}/claim", as_json(claim), 200))["leases"]
            await work(connection, name, held)
            left -= len(held)
            window.count(len(held))
        window.note(began)


async def work(connection: Connection, name: str, held: list[dict[str, Any]]) -> None:
    """Extend what is held, then complete it."""
    if not held:
        return
    leases = [{"lease_id": one["lease"]["id"]} for one in held]
    extended = json.loads(await connection.post(f"/workers/{name}/extend", as_json({"leases": leases}), 200))
    assert all(one["outcome"] == "held" for one in extended["leases"])
    reports = [{**_REPORT, "task_id": one["task"]["id"], "lease_id": one["lease"]["id"]} for one in held]
    completed = json.loads(await connection.post(f"/workers/{name}/complete", as_json({"completions": reports}), 200))
    assert all(one["outcome"] == "ok" for one in completed["completions"]), completed["completions"][0]
