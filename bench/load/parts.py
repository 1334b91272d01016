"""Parts of a task's life, as the peers can be asked for them: create singly, create in batches, work."""

import json
import time
import uuid

from bench.load.http import Connection, as_json
from bench.load.protocol import BATCH, SLOTS, work
from bench.load.window import Window
from bench.payload import PROMPT


async def create(connection: Connection, n: int, window: Window) -> None:
    """One task per request."""
    body = as_json({"context_id": f"bench-{n}", "agent_slug": "bench", "prompt": PROMPT})
    while not window.stopping:
        began = time.monotonic()
        await connection.post("/llm-tasks", body, 201)
        window.count(1)
        window.note(began)


async def create_batch(connection: Connection, n: int, window: Window) -> None:
    """A batch of 100 per request."""
    body = as_json({"tasks": [{"context_id": f"bench-{n}", "agent_slug": "bench", "prompt": PROMPT}] * BATCH})
    while not window.stopping:
        began = time.monotonic()
        created = json.loads(await connection.post("/llm-tasks/batch", body, 200))
        assert all(one["status"] == 201 for one in created["results"])
        window.count(BATCH)
        window.note(began)


async def work_off(connection: Connection, n: int, window: Window) -> None:
    """A worker of 32 slots: claim, extend, complete what is queued."""
    name = f"bench-{n}"
    await connection.register(name, SLOTS)
    while not window.stopping:
        began = time.monotonic()
        claim = as_json({"request_id": uuid.uuid4().hex, "slots": SLOTS})
        held = json.loads(await connection.post(f"/workers/{name}/claim", claim, 200))["leases"]
        if window.counting and not held:
            raise RuntimeError("the queue ran dry within the window: it was filled too little")
        await work(connection, name, held)
        window.count(len(held))
        window.note(began)
