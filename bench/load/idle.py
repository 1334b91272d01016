"""Workers that have nothing to do: each keeps one long poll open, as the worker daemon does."""

import asyncio
import uuid

from bench.load.http import Connection, as_json
from bench.load.window import Window
from bloom.worker.options import Pace

WAIT_SEC = Pace().wait_sec


async def client(connection: Connection, n: int, window: Window) -> None:
    """One worker of one slot. They begin spread over the length of a poll, so that the polls end spread too."""
    name = f"idle-{n}"
    await asyncio.sleep((n * 0.618034) % 1 * WAIT_SEC)
    await connection.register(name, 1)
    while not window.stopping:
        claim = {"request_id": uuid.uuid4().hex, "slots": 1, "wait_sec": WAIT_SEC}
        await connection.post(f"/workers/{name}/claim", as_json(claim), 200)
        window.count(1)
