"""The peer `procrastinate` under the same load; where its database is, libpq's environment says."""

import importlib
from typing import Any

from bench.load.window import Window, count_within
from bench.payload import PROMPT

CONCURRENCY = 16
BATCH = 100

procrastinate: Any = importlib.import_module("procrastinate")  # of the extra `bench`: linting does without


async def run_peer(name: str, options: dict[str, Any]) -> None:
    """`schema` makes its tables, `enqueue` and `bulk` are loads as ours, `work` works until it is ended."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(max_size=CONCURRENCY))

    @app.task(name="bench")
    async def bench(prompt: str) -> None:  # pyright: ignore[reportUnusedFunction]
        del prompt

    async def enqueue(window: Window) -> None:
        while not window.stopping:
            await app.configure_task("bench").defer_async(prompt=PROMPT)
            window.count(1)

    async def bulk(window: Window) -> None:
        while not window.stopping:
            await app.configure_task("bench").batch_defer_async(*[{"prompt": PROMPT}] * BATCH)
            window.count(BATCH)

    async with app.open_async():
        if name == "schema":
            await app.schema_manager.apply_schema_async()
        elif name == "work":
            # Until it is stopped; who started it counts what is done in the database.
            await app.run_worker_async(concurrency=CONCURRENCY)
        else:
            window = Window()
            clients = [{"enqueue": enqueue, "bulk": bulk}[name](window) for _ in range(options["clients"])]
            await count_within(window, clients, warm_up_sec=options["warm_up_sec"], seconds=options["seconds"])
