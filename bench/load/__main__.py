"""`python -m bench.load NAME`: one load generator, its options as JSON on stdin (they hold a key)."""

import gc
import json
import sys
from typing import Any

import uvloop

from bench.load import idle, life, pages, parts, protocol, scale
from bench.load.http import Connection
from bench.load.window import Client, run

CLIENTS: dict[str, Client] = {
    "life": life.client,
    "protocol": protocol.client,
    "idle": idle.client,
    "pages": pages.client,
    "create": parts.create,
    "create_batch": parts.create_batch,
    "work": parts.work_off,
}


async def _main(name: str, options: dict[str, Any]) -> None:
    if name == "peer":
        from bench.load.peer import run_peer  # only where it is installed

        await run_peer(**options)
        return
    if name == "scale":
        await scale.run_scale(**options)
        return
    if name == "life":
        connection = await Connection.open(options["port"], options["key"])
        await life.prepare(connection)
        connection.close()
    await run(CLIENTS[name], **options)


if __name__ == "__main__":
    gc.disable()  # its pauses would count as the server's
    uvloop.run(_main(sys.argv[1], json.load(sys.stdin)))
